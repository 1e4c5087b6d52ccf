"""What users would otherwise pick for the report's run, each written as they would at their best.

Each function takes the images, the labels and the epochs, and gives a function that makes a run: 784-100-10 with
sigmoid and softmax cross-entropy on raw pixels, mini-batches of 100 in an order that is drawn anew each epoch, SGD with
learning rate 0.01, float32. The data lie ready; what is compiled is compiled by the first run.
"""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy_program
from jax import Array, lax
from numpy.typing import NDArray

from handgrad.core import network
from handgrad.core.compilation import compiler_options
from handgrad.core.operations.base import Params

Images = NDArray[np.uint8] | NDArray[np.float32]
Labels = NDArray[np.uint8]
Run = Callable[[], None]

HIDDEN, CLASSES, BATCH_SIZE, LEARNING_RATE = 100, 10, 100, 0.01


def numpy_run(images: Images, labels: Labels, epochs: int) -> Run:
    def run() -> None:
        list(numpy_program.train(images, labels, epochs, seed=0))

    return run


def scikit_learn_run(images: Images, labels: Labels, epochs: int) -> Run:
    """MLPClassifier, which computes in the inputs' float32, its L2 penalty and momentum set to none."""
    warned: Any = importlib.import_module("sklearn.exceptions").ConvergenceWarning
    classifier: Any = importlib.import_module("sklearn.neural_network").MLPClassifier
    inputs = images.astype(np.float32)

    def run() -> None:
        model = classifier(
            (HIDDEN,),
            activation="logistic",
            solver="sgd",
            alpha=0,
            batch_size=BATCH_SIZE,
            learning_rate_init=LEARNING_RATE,
            max_iter=epochs,
            tol=0,
            n_iter_no_change=epochs + 1,
            momentum=0,
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", warned)
            model.fit(inputs, labels)

    return run


def pytorch_run(images: Images, labels: Labels, epochs: int, *, compiled: bool, device: str = "cpu") -> Run:
    """PyTorch, eager or with the step through `torch.compile`."""
    torch: Any = importlib.import_module("torch")
    inputs = torch.from_numpy(images.copy()).to(device)
    targets = torch.from_numpy(labels.astype(np.int64)).to(device)
    loss_of = torch.nn.CrossEntropyLoss()

    def run() -> None:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(inputs.shape[1], HIDDEN), torch.nn.Sigmoid(), torch.nn.Linear(HIDDEN, CLASSES)
        ).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = loss_of(model(x.float()), y)
            loss.backward()
            optimizer.step()
            return loss

        do = torch.compile(step) if compiled else step
        loss: Any = None
        for _ in range(epochs):
            order = torch.randperm(len(inputs), device=device)
            for begin in range(0, len(inputs), BATCH_SIZE):
                batch = order[begin : begin + BATCH_SIZE]
                loss = do(inputs[batch], targets[batch])
        loss.item()

    return run


def jax_grad_run(images: Images, labels: Labels, epochs: int) -> Run:
    """The same forward pass in jax, differentiated by jax.grad, in a jitted loop over each epoch."""
    net = network.fully_connected(images.shape[1], (HIDDEN,), CLASSES)
    device_images, device_labels = jnp.asarray(images), jnp.asarray(labels)
    iterations = len(images) // BATCH_SIZE

    def objective(params: Params, x: Array, y: Array) -> Array:
        return network.training_loss(net, params, ({},) * len(net.layers), x, y, jax.random.key(0))

    def epoch(params: Params, order: Array, x: Array, y: Array) -> tuple[Params, Array]:
        def iteration(params: Params, batch: Array) -> tuple[Params, Array]:
            loss, grads = jax.value_and_grad(objective)(params, x[batch].astype(jnp.float32), y[batch])
            return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, grads), loss

        return lax.scan(iteration, params, order)

    compiled = jax.jit(epoch, donate_argnums=0, compiler_options=compiler_options())

    def run() -> None:
        generator = np.random.default_rng(0)
        params, losses = network.init(net, jax.random.key(0)), jnp.zeros(0)
        for _ in range(epochs):
            order = generator.permutation(len(images)).reshape(iterations, BATCH_SIZE).astype(np.int32)
            params, losses = compiled(params, jnp.asarray(order), device_images, device_labels)
        np.asarray(losses)

    return run
