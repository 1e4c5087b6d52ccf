"""The README's commands and its Python, run as they stand there."""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()
ADDRESS = "127.0.0.1:50051"


def block(first_line: str) -> str:
    """Gives the indented block of the README that begins with a line."""
    lines = README.split("\n")
    start = lines.index(f"    {first_line}")
    end = next(number for number in range(start, len(lines)) if re.match(r"\S", lines[number]))
    return textwrap.dedent("\n".join(lines[start:end]))


@pytest.fixture
def address(free_port: int) -> str:
    """The README's own port may be in use."""
    return f"127.0.0.1:{free_port}"


def command_block(containing: str) -> str:
    line = next(line for line in README.split("\n") if line.startswith("    ") and containing in line)
    return block(line.strip())


def test_the_tour_without_a_server(shell: Any, tmp_path: Path) -> None:
    (tmp_path / "my-images").symlink_to(ROOT / "core/mnist")
    script = command_block("# the report's run")
    # The default run saves nothing; the last line wants a file that a reader may have.
    script = re.sub(r"^handgrad train  .*$", "handgrad train --epochs 1 --save params.npz", script, flags=re.MULTILINE)
    assert "--epochs 20" in script
    done = shell(script.replace("--epochs 20", "--epochs 2"), stdin="no\nno\n")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "loss.svg").read_text().startswith("<?xml")
    assert (tmp_path / "params.safetensors").exists()
    assert "label, and what it was taken for" in done.stdout


def test_the_tour_with_a_server_and_the_sdk(shell: Any, tmp_path: Path, address: str) -> None:
    commands = command_block("handgrad serve").replace(ADDRESS, address)
    serve, rest = commands.split("\n", 1)
    sdk = block("import handgrad").replace(ADDRESS, address).replace('model="digits"', 'model="sdk-digits"')
    (tmp_path / "tour.py").write_text(sdk.replace('"digits"', '"sdk-digits"'))
    wait = "for _ in $(seq 100); do (exec 3<>/dev/tcp/{}/{}) 2>/dev/null && break; sleep 0.2; done".format(
        *address.split(":")
    )
    # A reader takes a moment between two commands; a script has to wait for the first epoch.
    rest = rest.replace("handgrad loss", "sleep 3; handgrad loss", 1)
    done = shell(
        f"{serve}\nSERVER=$!\ntrap 'kill $SERVER; wait $SERVER' EXIT\n{wait}\n{rest}\npython tour.py", timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "loss.png").exists()
    assert (tmp_path / "newest.npz").exists()
    assert (tmp_path / "digits.npz").exists()
    listed = shell(
        "handgrad serve --address 127.0.0.1:0 > port &\ntrap 'kill %1; wait' EXIT\n"
        "until [ -s port ]; do sleep 0.1; done\n"
        "handgrad checkpoints --server $(cut -d' ' -f3 port) --json"
    )
    assert [json.loads(line)["checkpoint"] for line in listed.stdout.splitlines()] == [
        "after-ten-epochs",
        "my-checkpoint",
    ]
    assert "(100, 784)" in done.stdout


def test_the_tour_of_networks(shell: Any, tmp_path: Path) -> None:
    done = shell(block("cat > mine.toml <<'EOF'"))
    assert done.returncode == 0, done.stderr
    assert "13x13x8" in done.stdout
    assert "validation loss" in done.stdout
    assert "gradients, all right" in done.stdout
    assert (tmp_path / "mine.png").exists()
    assert "NOT" not in shell("handgrad evaluate --params mine.npz --transform unit").stdout


def test_the_tour_of_sweeps(shell: Any, tmp_path: Path) -> None:
    commands = command_block("handgrad sweep --learning-rate")
    # Shorter, since these are many.
    commands = commands.replace("0.1:log:8 --seeds 2", "0.1:log:4").replace("--epochs 9", "--epochs 2")
    sdk = block("members = handgrad.grid(learning_rate=(0.01, 0.03, 0.1), seed=range(4))").replace(
        "range(4)", "range(1)"
    )
    start = "import handgrad\n\nwith handgrad.connect() as hg:\n"
    (tmp_path / "tour.py").write_text(start + textwrap.indent(sdk, "    "))
    done = shell(f"{commands}\npython tour.py")
    assert done.returncode == 0, done.stderr
    assert "4 networks" in done.stdout
    assert "6 networks" in done.stdout
    assert "stopped by halving" in done.stdout
    assert "(100, 784)" in done.stdout
    assert (tmp_path / "sweep.png").exists()
    assert (tmp_path / "best.npz").exists()


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
