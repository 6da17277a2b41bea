"""Makes the golden vectors: what real Keras computes, step by step, in float64 and float32.

    python3 -m pip install --target judge keras==3.15.0 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 \
        h5py==3.16.0 ml_dtypes==0.6.0 optree==0.20.0 safetensors==0.8.0
    PYTHONPATH=judge python3 tests/golden/make_golden.py              # all committed cases, beside this file
    PYTHONPATH=judge python3 tests/golden/make_golden.py full DIR     # the full-width model, 48 MB, into DIR

README.md, beside this file, says what the files hold.
"""

import json
import os
import pathlib
import subprocess
import sys

STEPS = 10
PLAIN = dict(
    window=96, channels=2, classes=6, conv_filters=[12, 24], kernel_size=3, pool_size=2, lstm_units=12,
    dense_units=24, l2=0.0, dropout=0.0, batch_norm_momentum=0.99, batch_norm_epsilon=1e-3,
)
CONSTANT = dict(constant=1e-3)
CASES = {
    # The source's structure at a fifth of its width.
    "plain": dict(config=PLAIN, learning_rate=CONSTANT, batches=3, rows=8, seed=1),
    # Its TPU notebook's regularizer and schedule; the schedule is steep enough for ten steps to show it.
    "l2_decay": dict(
        config=dict(PLAIN, l2=0.01), batches=3, rows=8, seed=2,
        learning_rate=dict(exponential_decay=dict(initial=2e-3, decay_steps=7, decay_rate=0.9)),
    ),
    # 109 samples: 107 after the first convolution, 53 pooled and one left over; 51 after the second, 25 and one left.
    "odd": dict(
        config=dict(PLAIN, window=109, channels=3, classes=5, conv_filters=[7, 11], lstm_units=5, dense_units=13,
                    batch_norm_momentum=0.9),
        learning_rate=CONSTANT, batches=4, rows=[7, 5, 1, 3], seed=3,
    ),
    "full": dict(
        config=dict(PLAIN, window=200, conv_filters=[64, 128], lstm_units=64, dense_units=128),
        learning_rate=CONSTANT, batches=2, rows=5, seed=4,
    ),
}
COMMITTED = ["plain", "l2_decay", "odd"]
NAMES = [
    "conv1d/kernel", "conv1d/bias", "conv1d_1/kernel", "conv1d_1/bias", "batch_normalization/gamma",
    "batch_normalization/beta", "batch_normalization/moving_mean", "batch_normalization/moving_variance",
    "lstm/kernel", "lstm/recurrent_kernel", "lstm/bias", "dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias",
]


def batches(case):
    """Recordings' samples as a device gets them: int16 with each window's minimum and range per channel.

    Slow waves with noise, clipped to 12 bits, so that neighbouring samples tie in the max-pools.
    """
    import numpy as np

    config, random = case["config"], np.random.default_rng(case["seed"])
    rows = case["rows"] if isinstance(case["rows"], list) else [case["rows"]] * case["batches"]
    for count in rows:
        time = np.arange(config["window"])[None, :, None]
        phase, rate = random.uniform(0, 6.28, (2, count, 1, config["channels"]))
        wave = 900 * np.sin(phase + 0.05 * (1 + rate) * time) + random.normal(0, 60, (count, config["window"], 1))
        samples = np.clip(4 * np.round(wave * random.uniform(0.5, 3, (count, 1, 1)) / 4), -2048, 2047).astype("<i2")
        # A recording's extremes lie beyond its windows' own.
        minimum = samples.min(1).astype("<f4") - random.integers(0, 50, (count, config["channels"])).astype("<f4")
        spread = samples.max(1).astype("<f4") - minimum + 17
        labels = random.integers(0, config["classes"], count).astype("<i4")
        yield samples, minimum, spread, labels


def build(config):
    import keras
    from keras import layers

    regularizer = keras.regularizers.L2(config["l2"]) if config["l2"] else None
    first, second = config["conv_filters"]
    return keras.Sequential([
        keras.Input((config["window"], config["channels"])),
        layers.Conv1D(first, config["kernel_size"], activation="relu"),
        layers.MaxPooling1D(config["pool_size"]),
        layers.Conv1D(second, config["kernel_size"], activation="relu"),
        layers.MaxPooling1D(config["pool_size"]),
        layers.BatchNormalization(momentum=config["batch_norm_momentum"], epsilon=config["batch_norm_epsilon"]),
        layers.LSTM(config["lstm_units"]),
        layers.Dense(config["dense_units"], activation="relu", kernel_regularizer=regularizer),
        layers.Dense(config["classes"], activation="softmax"),
    ])


def initial_weights(case):
    """Keras's own initialisers, in float32, whatever the precision of the run; biases moved off zero a little."""
    import numpy as np
    from keras import initializers

    config, weights, random = case["config"], [], np.random.default_rng(case["seed"] + 100)
    units = config["lstm_units"]
    shapes = [tuple(w.shape) for w in build(config).weights]
    for number, (name, shape) in enumerate(zip(NAMES, shapes, strict=True)):
        leaf, seed = name.split("/")[1], case["seed"] * 1000 + number
        if leaf == "kernel":
            value = initializers.GlorotUniform(seed=seed)(shape, dtype="float32")
        elif leaf == "recurrent_kernel":
            value = initializers.Orthogonal(seed=seed)(shape, dtype="float32")
        else:
            value = np.ones(shape) if leaf in ("gamma", "moving_variance") else np.zeros(shape)
            if name == "lstm/bias":
                value[units:2 * units] = 1
            value = value + (0.05 * random.standard_normal(shape) if "moving" not in leaf else 0)
        weights.append(np.asarray(value, "<f4"))
    return weights


def train(name, precision, teacher):
    """Ten steps by Keras's own layers, loss and optimizer; returns tensors by name.

    With a teacher, another run's tensors, each step is also taken from the teacher's weights (`forced<step>/…`).
    """
    import jax
    import keras
    import numpy as np

    case = CASES[name]
    keras.config.set_floatx(precision)
    model = build(case["config"])
    model.set_weights(initial_weights(case))
    rate = case["learning_rate"]
    decay = rate.get("exponential_decay")
    schedule = rate.get("constant") or keras.optimizers.schedules.ExponentialDecay(
        decay["initial"], decay["decay_steps"], decay["decay_rate"])
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(model.trainable_variables)
    loss_function = keras.losses.SparseCategoricalCrossentropy()
    data = [(s, m, r, y) for s, m, r, y in batches(case)]
    tensors = {}

    def objective(trainable, other, x, y):
        outputs, other, losses = model.stateless_call(trainable, other, x, training=True, return_losses=True)
        return loss_function(y, outputs) + sum(losses), (outputs, other)

    step_function = jax.jit(jax.value_and_grad(objective, has_aux=True))
    trainable_names = [n for n in NAMES if "/moving_" not in n]
    trainable = [v.value for v in model.trainable_variables]
    other = [v.value for v in model.non_trainable_variables]
    state = [v.value for v in optimizer.variables]

    moving = ["batch_normalization/moving_mean", "batch_normalization/moving_variance"]

    def keep(step):
        values = dict(zip(trainable_names, trainable)) | dict(zip(moving, other))
        for key in NAMES:
            tensors[f"step{step}/weight/{key}"] = values[key]
        if step:
            moments = [value for value in state if value.ndim]
            for key, m, v in zip(trainable_names, moments[0::2], moments[1::2], strict=True):
                tensors[f"step{step}/m/{key}"], tensors[f"step{step}/v/{key}"] = m, v

    keep(0)
    for step in range(STEPS):
        samples, minimum, spread, labels = data[step % len(data)]
        # One float32 division, as on the device; a float64 run starts from the same values.
        x = (samples.astype("<f4") - minimum[:, None, :]) / spread[:, None, :]
        x = x.astype(precision)
        if teacher:
            given = [[teacher[f"step{step}/weight/{key}"].astype(precision) for key in keys]
                     for keys in (trainable_names, moving)]
            # The LSTM's unused seed stands behind the moving statistics.
            given[1] += other[2:]
            (loss, (outputs, statistics)), gradients = step_function(*given, x, labels)
            forced = {"loss": loss, "softmax": outputs}
            forced |= {f"weight/{key}": value for key, value in zip(moving, statistics)}
            forced |= {f"gradient/{key}": value for key, value in zip(trainable_names, gradients, strict=True)}
            tensors.update({f"forced{step}/{key}": value for key, value in forced.items()})
        (loss, (outputs, other)), gradients = step_function(trainable, other, x, labels)
        tensors[f"step{step}/loss"], tensors[f"step{step}/softmax"] = loss, outputs
        for key, gradient in zip(trainable_names, gradients, strict=True):
            tensors[f"step{step}/gradient/{key}"] = gradient
        trainable, state = optimizer.stateless_apply(state, gradients, trainable)
        keep(step + 1)
    # What a prediction gives after the ten steps, by the moving statistics.
    x = (data[0][0].astype("<f4") - data[0][1][:, None, :]) / data[0][2][:, None, :]
    tensors["prediction"], _ = model.stateless_call(trainable, other, x.astype(precision), training=False)
    return {key: np.asarray(value) for key, value in tensors.items()}


def write(name, precision, folder):
    import numpy as np
    from safetensors.numpy import load_file, save_file

    case, folder = CASES[name], pathlib.Path(folder)
    teacher = load_file(folder / f"{name}.float32.safetensors") if precision == "float64" else None
    # asarray, not ascontiguousarray, which makes an array of one out of a scalar.
    tensors = {key: np.asarray(value, precision, order="C") for key, value in train(name, precision, teacher).items()}
    for number, (samples, minimum, spread, labels) in enumerate(batches(case)):
        inputs = dict(samples=samples, minimum=minimum, range=spread, labels=labels)
        tensors |= {f"batch{number}/{key}": np.asarray(value, order="C") for key, value in inputs.items()}
    rows = case["rows"] if isinstance(case["rows"], list) else [case["rows"]] * case["batches"]
    golden = dict(config=case["config"], learning_rate=case["learning_rate"], steps=STEPS, batches=len(rows))
    path = folder / f"{name}.{precision}.safetensors"
    save_file(tensors, path, metadata={"golden": json.dumps(golden)})
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, losses",
          *[f"{float(tensors[f'step{step}/loss']):.6f}" for step in range(STEPS)])


def main():
    if len(sys.argv) == 5:
        return write(*sys.argv[2:])
    names = sys.argv[1:2] if len(sys.argv) > 1 else COMMITTED
    folder = sys.argv[2] if len(sys.argv) > 2 else str(pathlib.Path(__file__).parent)
    # A process for each run: JAX decides once whether it has 64 bits. The float64 run reads the float32 one's states.
    for name in names:
        for precision in ("float32", "float64"):
            environment = dict(os.environ, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu", TF_CPP_MIN_LOG_LEVEL="2",
                               JAX_ENABLE_X64="1" if precision == "float64" else "0")
            subprocess.run([sys.executable, __file__, "--one", name, precision, folder], env=environment, check=True)


main()
