"""64 callers fetch params, while the server is idle and while it trains, beside a bare grpcio server in the same run.

The callers are threads of one process of their own, which hashes each answer. They take turns, round by round, at the
bare server, which gives the same number of bytes from memory, at the idle server, and at the one that trains; and
between the rounds the job trains alone, so that its slowing is one of the same minute.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import grpc
from machine import machine, results

import handgrad
from handgrad.v1 import tensor_pb2
from handgrad.v1 import training_service_pb2 as pb

CALLERS = 64
METHOD = "/handgrad.v1.TrainingService/GetParams"
LISTENING = "listening on "


@dataclass
class Round:
    """What the callers of one round found; the times in seconds."""

    answers: int
    errors: int
    seconds: float
    p50: float
    p99: float
    processor_seconds: float


def serve_bare(size_bytes: int, address: Any) -> None:
    """A grpcio server that gives bytes from memory, with as many threads as handgrad's."""
    answer = pb.GetParamsResponse(tensors=[tensor_pb2.Tensor(data=bytes(size_bytes))]).SerializeToString()
    handler: Any = grpc.unary_unary_rpc_method_handler(lambda *_: answer)
    server = grpc.server(ThreadPoolExecutor(64))
    service, method = METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    address.put(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    server.wait_for_termination()


def call(address: str, model: str, seconds: float, results: Any) -> None:
    """Fetches params with CALLERS threads; checks each answer's hash where it has one."""
    latencies: list[float] = []
    errors: list[str] = []
    request = pb.GetParamsRequest(model=model)
    end = time.perf_counter() + seconds
    processor = time.process_time()

    def fetch() -> None:
        # A channel each, as programs of their own would have.
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            get = channel.unary_unary(
                METHOD,
                request_serializer=pb.GetParamsRequest.SerializeToString,
                response_deserializer=pb.GetParamsResponse.FromString,
            )
            while (began := time.perf_counter()) < end:
                try:
                    reply = get(request, timeout=60)
                except grpc.RpcError as error:
                    errors.append(str(error))
                    continue
                latencies.append(time.perf_counter() - began)
                found = sha256(b"".join(tensor.data for tensor in reply.tensors)).hexdigest()
                if reply.HasField("params_version") and found != reply.params_version.params_sha256:
                    errors.append("a wrong hash")

    threads = [threading.Thread(target=fetch) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies.sort()
    results.put(
        Round(
            len(latencies),
            len(errors),
            seconds,
            statistics.median(latencies),
            latencies[int(0.99 * len(latencies))],
            time.process_time() - processor,
        )
    )


def load(address: str, model: str, seconds: float) -> Round:
    """Runs one round of callers, in a process of their own."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=call, args=(address, model, seconds, results))
    process.start()
    found: Round = results.get()
    process.join()
    return found


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    found: dict[str, list[Round]] = {"bare": [], "idle": [], "training": []}
    rates: dict[str, list[float]] = {"alone": [], "under load": []}
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "handgrad.server", "--address", "127.0.0.1:0", "--data-dir", f"{folder}/data"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert server.stdout
        address = server.stdout.readline().removeprefix(LISTENING).strip()
        with handgrad.connect(address) as hg:
            hg.train(epochs=1, model="still").wait()
            size_bytes = hg.get_params("still").version.size_bytes
            bare = context.Process(target=serve_bare, args=(size_bytes, queue), daemon=True)
            bare.start()
            bare_address = queue.get()
            for number in range(rounds + 1):
                turn = {"bare": load(bare_address, "still", seconds), "idle": load(address, "still", seconds)}
                job = hg.train(epochs=100_000, model=f"moving-{number}")
                while hg.get_job(job.name).iteration < 2000:
                    time.sleep(0.05)
                before, began = hg.get_job(job.name).iteration, time.perf_counter()
                time.sleep(seconds)
                alone = (hg.get_job(job.name).iteration - before) / (time.perf_counter() - began)
                before, began = hg.get_job(job.name).iteration, time.perf_counter()
                turn["training"] = load(address, job.model, seconds)
                rate = (hg.get_job(job.name).iteration - before) / (time.perf_counter() - began)
                job.cancel()
                if number:
                    for name, each in turn.items():
                        found[name].append(each)
                    rates["alone"].append(alone)
                    rates["under load"].append(rate)
        bare.terminate()
        bare.join()
        server.terminate()
        server.wait(60)
    return {
        "rounds": {name: [asdict(each) for each in each_round] for name, each_round in found.items()},
        "rates": rates,
    }


def table(measured: dict[str, Any]) -> str:
    rounds, rates = measured["rounds"], measured["rates"]
    cores = len(os.sched_getaffinity(0))

    def median(above: list[float], below: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(above, below, strict=True))

    def column(name: str, key: str) -> list[float]:
        return [each[key] for each in rounds[name]]

    slowing = statistics.median(1 - b / a for a, b in zip(rates["alone"], rates["under load"], strict=True))
    share = statistics.median(each["processor_seconds"] / each["seconds"] / cores for each in rounds["training"])
    rate, tail = (
        median(column("idle", "answers"), column("bare", "answers")),
        median(column("training", "p99"), column("idle", "p99")),
    )
    errors = sum(sum(column(name, "errors")) for name in rounds)
    lines = [
        "| what | measured | aim | |",
        "|---|---|---|---|",
        f"| rate of GetParams, idle / bare grpcio | {rate:.2f} | at least 0.9 | {'met' if rate >= 0.9 else 'missed'} |",
        f"| its p99, training / idle | {tail:.2f} | at most 3 | {'met' if tail <= 3 else 'missed'} |",
        f"| training slows by | {slowing:.0%} | | |",
        f"| of which the callers' own share of the processors | {share:.0%} | | |",
        f"| and beyond it | {slowing - share:.0%} | at most 15% | {'met' if slowing - share <= 0.15 else 'missed'} |",
        f"| errors, wrong hashes | {errors:.0f} | 0 | {'missed' if errors else 'met'} |",
        "",
        "| medians | answers a second | p50, ms | p99, ms |",
        "|---|---|---|---|",
    ]
    for name in rounds:
        answers = statistics.median(each["answers"] / each["seconds"] for each in rounds[name])
        p50, p99 = (1e3 * statistics.median(column(name, key)) for key in ("p50", "p99"))
        lines.append(f"| {name} | {answers:.0f} | {p50:.1f} | {p99:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures 64 callers of GetParams, beside a bare grpcio server.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--seconds", type=float, default=12, help="of each part of a round")
    options = parser.parse_args()
    measured = measure(options.rounds, options.seconds)
    described = machine()
    text = "\n".join(
        [
            f"# {CALLERS} callers of GetParams, {options.rounds} rounds of {options.seconds:g} s each",
            "",
            ", ".join(f"{name} {value}" for name, value in described.items()),
            "",
            table(measured),
        ]
    )
    print(text)
    results().joinpath("load.md").write_text(text + "\n")
    results().joinpath("load.json").write_text(json.dumps({"machine": described} | measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
