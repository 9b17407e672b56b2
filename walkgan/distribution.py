"""Training on several devices and hosts, with one process per host."""

import os
import re
import sys
import traceback
import zlib
from contextlib import contextmanager, nullcontext
from pathlib import Path

import keras
import numpy as np

from walkgan.errors import InputError, SettingError, is_out_of_memory

AGREE_EVERY = 10  # steps between the exchanges of several processes, each of which waits for all of them
# As JAX words the loss of a connection.
LOST_CONNECTION = "UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|Connection|connection|Gloo|heartbeat|coordination"


def enable_determinism():
    """Make TensorFlow's sums on the CPU the same every time, on a busy machine too; costs about 3% of the speed.

    Without it a resumed training may differ from an uninterrupted one in the last digits. On a GPU it would cost far
    more, so there it stays off.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        if not tensorflow.config.list_physical_devices("GPU"):
            tensorflow.config.experimental.enable_op_determinism()


def initialize_hosts():
    """Connect to the hosts in Keras's KERAS_DISTRIBUTION_... variables, before anything is computed.

    Each host keeps a whole run of its own and generates its own images: they share the training steps only. So they
    must agree on whatever stops or changes the training (`any_process`). Raises SettingError where they cannot train
    together.
    """
    if os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", "1") == "1":
        return
    if keras.backend.backend() != "jax":
        raise SettingError("training on several hosts works on JAX only: set KERAS_BACKEND to jax on each.")
    try:
        keras.distribution.initialize()
    except (RuntimeError, ValueError) as error:
        raise SettingError(f"the hosts of KERAS_DISTRIBUTION_JOB_ADDRESSES do not connect: {error}") from error
    import jax

    require_equal_on_all_processes("their number of GPUs", jax.local_device_count())


def process_index_and_count():
    """Return the index of this process, from 0, and how many train together."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def is_multi_process():
    """Return whether several processes train together."""
    return process_index_and_count()[1] > 1


def all_gather(number):
    """Return the number that each process calls this with, at the same step; waits for all of them."""
    if not is_multi_process():
        return np.array([number])
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(np.array(number))


def any_process(flag, batch=0):
    """Return whether the flag is set on any process; of several, only every AGREE_EVERY-th batch."""
    if is_multi_process() and batch % AGREE_EVERY:
        return False
    return bool(all_gather(bool(flag)).any())


@contextmanager
def abort_all_on_error():
    """While active, an error on one of several hosts ends this process at once, and so the training on the others.

    An ordinary exit would wait for the other hosts, which wait for this one's next step.
    """
    try:
        yield
    except Exception as error:
        if not is_multi_process() or isinstance(error, SettingError):
            raise
        script = Path(sys.argv[0]).name
        if isinstance(error, OSError) or (isinstance(error, InputError) and not is_out_of_memory(error)):
            print(f"\n{script}: {error}", file=sys.stderr, flush=True)
        elif re.search(LOST_CONNECTION, str(error)):
            message = f"lost the connection to another host ({error!s:.100}). Continue on each host with --resume."
            print(f"\n{script}: {message}", file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)


def require_equal_on_all_processes(what, value):
    """Raise SettingError where the processes do not all have the same value of something."""
    if len(set(all_gather(zlib.crc32(repr(value).encode())).tolist())) > 1:
        raise SettingError(f"the hosts differ in {what}, which must be the same on all.")


def predict(model, inputs, batch_size):
    """Return what a model computes from inputs (count, ...), a numpy array, in batches; as `predict` of Keras does.

    While JAX trains on several devices, that would need batches which they can share evenly, and on several hosts, all
    of them to take part. A copy of the weights needs neither.
    """
    if keras.distribution.distribution() is None:
        return model.predict(inputs, batch_size=batch_size, verbose=0)
    variables = model.trainable_variables, model.non_trainable_variables
    weights = [[keras.ops.convert_to_numpy(variable) for variable in group] for group in variables]
    parts = np.split(inputs, range(batch_size, len(inputs), batch_size))
    outputs = [model.stateless_call(*weights, part, training=False)[0] for part in parts]
    return np.concatenate([keras.ops.convert_to_numpy(output) for output in outputs])


def distribution_scope(num_devices):
    """Return the context to build a GAN in, so that `fit` gives each of num_devices devices its part of every batch.

    Devices are GPUs, or without one the backend's virtual CPU devices. TensorFlow trains through tf.distribute, JAX
    through keras.distribution. Both give the same result as one device, except for random numbers within a step and for
    the nearest frames of the thumbnail loss, which TensorFlow finds within each part. Raises
    SettingError where there are fewer devices, and on other backends. On several hosts, all their devices train.
    """
    backend = keras.backend.backend()
    if is_multi_process() and num_devices != len(keras.distribution.list_devices()):
        raise SettingError(f"--devices must be {len(keras.distribution.list_devices())}, all that the hosts have.")
    if num_devices == 1:
        return nullcontext()
    if backend == "tensorflow":
        import tensorflow as tf

        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    elif backend == "jax":
        found = keras.distribution.list_devices()
    else:
        raise SettingError(f"--devices {num_devices} works on TensorFlow and JAX: set KERAS_BACKEND to one of them.")
    if len(found) < num_devices:
        raise SettingError(f"--devices {num_devices}: {backend} finds {len(found)} here.")
    if backend == "tensorflow":
        return tf.distribute.MirroredStrategy([device.name for device in found[:num_devices]]).scope()
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=found[:num_devices], auto_shard_dataset=False)
    )
    return nullcontext()
