"""Every network that is trained, as Keras models.

Generator and discriminator are a DCGAN (Radford et al. 2016, arXiv:1511.06434) in the shape of a pyramid that can grow:
the same pyramid, traversed in opposite directions. At 160x320 and width 16:

    latents ->  5x10x64 -> 10x20x48 -> 20x40x32 -> 40x80x24 -> 80x160x16 -> 160x320x8 -> 160x320x3
    frames  -> 80x160x16 -> 40x80x24 -> 20x40x32 -> 10x20x48 -> 5x10x64 -> one logit

Each level halves or doubles both sides; level 0 is the base. The widths fall slowly towards the frame, so that small
frames cost a fraction of what large ones do; with layers twice as wide at the small levels, the same time gave half the
steps, and worse frames. Six things differ from the paper, since they gave better frames here in the same time:

- The generator upsamples by repeating pixels and then convolves, where the paper's transposed convolution leaves
  checkerboard artefacts (Odena et al. 2016, distill.pub/2016/deconv-checkerboard).
- It convolves at full resolution too. In the paper a pixel is a linear mix of features of half the
  resolution, and fakes had squiggle artefacts, however long the training.
- From 40x80 on, each level adds an RGB correction to the upsampled image of the level below, and the discriminator gets
  the frame at each of these resolutions (the RGB skips of StyleGAN2, Karras et al. 2020, arXiv:1912.04958; MSG-GAN,
  Karnewar & Wang 2020, arXiv:1903.06048). So the networks for smaller frames are parts of those for larger ones, share
  their layers, and can be trained first (Karras et al. 2018, arXiv:1710.10196).
- What a level adds to those below is zero at first: images stay the same when a new size begins, without fading in.
- The discriminator convolves the smallest frames at full resolution before it halves them; without, fakes had ring
  artefacts that it missed.
- The discriminator has no batch normalisation: with it, on small batches, it soon overpowered the generator, which
  stopped learning.

With several scenes, generator and discriminators are conditional on the scene, which the latent tells: see `scene_of`.

To learn how the frames of a walk move, there are two more parts. An ordered generator draws a street, which frames
show in perspective at 40x80, with half as many features as above: see walkgan/street.py. A discriminator of windows
of frames also sees the optical flow between them, at 20x40 and 40x80: see `OpticalFlow`.
"""

import math

import keras
from keras import layers, ops

from walkgan.keyframes import keyframes_around, of_keyframes, slow_part, stack_windows
from walkgan.layers import BatchNormalization, OpticalFlow, SpectralConv2D, UpConv2D, normal
from walkgan.street import STRIPS, enlarged, latents_along, street_seen, walked_by_side

MIN_BASE_SIZE = 4  # DCGAN starts from 4x4
MAX_WIDTH_MULTIPLIER = 4  # the base has this many times the channels of the level at half the frame's size
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}  # short memory: the weights never stop changing
NUM_OUTPUT_SCALES = 3  # levels with an image of their own: the frame's size, a half and a quarter
MAX_SCENE_LEVEL = 3  # the highest level that scales and shifts its channels for each scene: up to 40x80 of 160x320
MAX_DOWNSAMPLINGS = 5  # a deeper network contains one of this depth, and has an image at every level above it


def num_downsamplings(frame_shape):
    """Return how often a frame's sides are halved down to the base of the pyramid.

    frame_shape: (height, width, channels). The shorter side of the base is 4 to 8 pixels; it is 5x10 for 160x320. Sides
    that do not halve evenly are padded at the bottom and on the right inside the networks, and cropped again.
    Raises ValueError where the shorter side is below 8.
    """
    height, width = frame_shape[:2]
    if min(height, width) < 2 * MIN_BASE_SIZE:
        raise ValueError(f"frames of {height}x{width} (height x width) are too small: no side can be below 8.")
    return int(math.log2(min(height, width) / MIN_BASE_SIZE))


def frame_shapes_by_level(frame_shape):
    """Return {level: frame shape} of every level that has an image, smallest first; the last is frame_shape."""
    height, width, channels = frame_shape
    top = num_downsamplings(frame_shape)
    first = max(1, min(top, MAX_DOWNSAMPLINGS) - NUM_OUTPUT_SCALES + 1)
    return {
        level: (-(-height // 2 ** (top - level)), -(-width // 2 ** (top - level)), channels)
        for level in range(first, top + 1)
    }


def build_generators(
    latent_dim, frame_shape, width, name="generator", fused=False, scenes=(1.0,), walks=False, window=1
):
    """Build the generators of all frame sizes, smallest first, from one set of layers: latents in, frames out.

    latents: (batch, latent_dim) float32, standard normal. Each returns frames (batch, height, width, channels) float32
    in [-1, 1], the last one of frame_shape. `width` is the number of channels at half the frame's size. `fused` uses
    layers of our own: the same output, faster to train, but a Keras file to share should not need them.
    `scenes`: see scene_of. With `walks`, they draw a street: see walkgan/street.py; with a `window` of several frames,
    once for each window: latents are (batch, window, latent_dim), as of between_keyframes, and frames (batch, height,
    width, window * channels). Raises ValueError for frames that are too small.
    """
    shapes = frame_shapes_by_level(frame_shape)
    first, top = min(shapes), max(shapes)
    widths = _widths(width, top)
    base_shape = (*(-(-side // 2**top) for side in frame_shape[:2]), widths[0])

    latents = keras.Input((latent_dim,) if window == 1 else (window, latent_dim), name="latents")
    drawn = of_frames = ops.reshape(latents, (-1, latent_dim)) if walks else latents
    drawn_scene = scene = scene_of(of_frames, scenes) if len(scenes) > 1 else None
    if walks:
        drawn, fraction = keyframes_around(ops.reshape(latents, (-1, window, latent_dim)))
        drawn_scene = None if scene is None else of_keyframes(scene, window)
    dense = layers.Dense(math.prod(base_shape), use_bias=False, kernel_initializer=normal(), name="dense")
    x = dense(slow_part(drawn) if walks else drawn)
    x = layers.ReLU()(_norm(layers.Reshape(base_shape, name="base")(x), 0, drawn_scene, fused))
    rgb, generators, upsample = None, [], layers.UpSampling2D(interpolation="bilinear")
    for level in range(1, top + 1):
        channels = widths[level] if level < min(top, MAX_DOWNSAMPLINGS) else max(width // 2, 1)
        if walks and level == first:
            channels = max(channels // 2, 1)  # they are sampled for every frame, which takes time with each
        x = _up_conv(x, channels, f"conv_{level}", fused)
        x = layers.ReLU()(_norm(x, level, drawn_scene if level <= MAX_SCENE_LEVEL else None, fused))
        if walks and level == first:
            x = _crop(x, shapes[level])  # the middle of a street is that of the frame
            x, drawn_scene = _frames_of_street(x, drawn, drawn_scene, of_frames, fraction, widths, window, fused), scene
        if level in shapes:
            correction = _conv(frame_shape[2], 3, name=f"to_rgb_{level}", zeros=rgb is not None)(x)
            rgb = correction if rgb is None else layers.Add()([upsample(rgb), correction])
            frames = layers.Activation("tanh", dtype="float32", name="frames")(_crop(rgb, shapes[level]))
            frames = stack_windows(frames, window) if window > 1 else frames
            generators.append(keras.Model(latents, frames, name=name))
    return generators


def build_generator(latent_dim, frame_shape, width, name="generator", scenes=(1.0,), walks=False):
    """Build the generator of frame_shape alone; see build_generators."""
    return build_generators(latent_dim, frame_shape, width, name, scenes=scenes, walks=walks)[-1]


def _frames_of_street(far, keyframes, scene, latents, fraction, widths, window, fused):
    """Return features of frames of a street: see street_seen. keyframes, scene: (2 * batch, ...), as `far`."""
    keyframes, _ = ops.split(keyframes, 2, 0)
    scene = None if scene is None else ops.split(scene, 2, 0)[0]
    channels, scenes = far.shape[-1], ops.ones_like(keyframes[:, :1]) if scene is None else scene
    walked = walked_by_side(scenes)
    strips = _draw_strips(latents_along(keyframes, walked), scene, widths, channels, fused)
    far = _conv(channels, 1, name="far", use_bias=False)(far)
    x = street_seen(strips, far, latents, fraction, walked, scenes, window, fused)
    x = _conv(channels, 3, name="street", padding="valid", use_bias=False)(x)
    return layers.ReLU()(_norm(x, "street", None, fused))


def _draw_strips(x, scene, widths, channels, fused):
    """Return the strips of a street, coarsest first: (batch, rows, columns, channels), of STRIPS in street.py."""
    strips = []
    for number, (_, columns, _) in enumerate(STRIPS):
        width = widths[min(number + 1, len(widths) - 1)]
        if number:
            x = _conv(width, 3, name=f"conv_strip_{number}", padding="valid", use_bias=False)(enlarged(x, number))
        else:
            x = layers.Dense(columns * width, kernel_initializer=normal(), name="dense_strip")(x)
            x = layers.Reshape((-1, columns, width))(x)
        x = layers.ReLU()(_norm(x, f"strip_{number}", scene, fused))
        strips.append(_conv(channels, 1, name=f"strip_{number}", use_bias=False)(x))
    return strips


def scene_of(latents, scenes):
    """Return the scene of each of the latents (batch, latent_dim): one-hot (batch, number of scenes) float32.

    The direction of the pair that a walk rotates the slowest tells: from 0 to scenes[0] of a full turn it is the first
    scene, from there to scenes[1] the second, and so on; the last of `scenes` is 1. In a normal latent all directions
    are equally likely. So scenes are drawn as often as in the video, and nothing has to lie between two of them.
    """
    half = latents.shape[1] // 2
    turn = ops.arctan2(latents[:, -1:], latents[:, half - 1 : half]) / (2 * math.pi)
    options = {"output_mode": "one_hot", "dtype": "float32"}  # bfloat16 would move latents to the scene beside theirs
    return layers.Discretization([float(bound) for bound in scenes[:-1]], name="scene", **options)(ops.mod(turn, 1.0))


def build_discriminators(frame_shape, width, num_scenes=1):
    """Build the discriminators of all frame sizes, smallest first, from one set of layers: frames in, logits out.

    frames: (batch, height, width, channels) float32 in [-1, 1], for the last one of frame_shape. Each returns (batch,
    1) float32 logits; a higher logit means more real. `width` is the number of channels at half the frame's size. With
    several scenes, inputs are [frames, scene], and frames are judged as frames of that scene (one-hot).
    Raises ValueError for frames that are too small.
    """
    shapes = frame_shapes_by_level(frame_shape)
    first, top = min(shapes), max(shapes)
    widths = _widths(width, top)
    conv, from_rgb = {}, {}
    for level in range(top, 0, -1):
        if level < top:
            conv[level] = _conv(widths[level - 1], 4, 2, name=f"conv_{level}", zeros=level >= first)
        if level == first:
            stem = _conv(widths[-1], 3, name="stem")
        if level in shapes:
            from_rgb[level] = _conv(widths[level - 1], 4, 2, name=f"from_rgb_{level}")
    from_flow = {}
    if frame_shape[2] >= 6:  # windows
        for level in range(max(first - 1, 1), first + 1):
            from_flow[level] = _conv(widths[level - 1], 4, 2, name=f"from_flow_{level}", zeros=True)
    head = {"dtype": "float32", "kernel_initializer": normal()}
    logits = layers.Dense(1, name="logits", **head)
    logits_by_scene = layers.Dense(num_scenes, name="logits_by_scene", **head) if num_scenes > 1 else None

    def build(own_level, shape):
        inputs = keras.Input(shape, name="frames")
        frames, x = _pad(inputs, 2**own_level), None
        for level in range(own_level, 0, -1):
            parts = [] if x is None else [conv[level](x)]
            if level in from_flow:
                parts.append(from_flow[level](OpticalFlow(name=f"flow_{level}")(frames)))
            if level in shapes:
                parts.append(from_rgb[level](layers.LeakyReLU(0.2)(stem(frames)) if level == first else frames))
                frames = layers.AveragePooling2D(2)(frames)
            x = layers.LeakyReLU(0.2)(layers.Add()(parts) if len(parts) > 1 else parts[0])
        x = layers.Flatten()(x)
        if not logits_by_scene:
            return keras.Model(inputs, logits(x), name="discriminator")
        scene = keras.Input((num_scenes,), name="scene")
        return keras.Model([inputs, scene], logits(x) + _of_scene(logits_by_scene(x), scene), name="discriminator")

    return [build(level, shape) for level, shape in shapes.items()]


def build_feature_discriminator(feature_shapes, width, num_scenes=1):
    """Build the discriminator that sees frames through a frozen network: features in, logits out.

    feature_shapes: (rows, columns, channels) of each scale, finest first, such as 20x40, 10x20 and 5x10. Returns
    (batch, logits) float32, a higher one more real: of each scale one for every position of the coarsest, and one for
    the whole frame, which counts 0.3 times as much as all positions together. With several scenes, inputs are
    [*features, scene], as of build_discriminators.
    After Projected GAN (Sauer et al. 2021, arXiv:2111.01007), which has no logit for the whole frame.
    """
    inputs = [keras.Input(shape, name=f"features_{scale}") for scale, shape in enumerate(feature_shapes)]
    scene = keras.Input((num_scenes,), name="scene") if num_scenes > 1 else None
    positions = math.prod(feature_shapes[-1][:2])
    logits = []
    for scale, x in enumerate(inputs):

        def convolve(x, name, filters, size, strides=1, scale=scale):
            x = SpectralConv2D(filters, size, strides, padding="same", name=f"{name}_{scale}")(x)
            return layers.LeakyReLU(0.2)(x)

        def judge(x, name, size, padding, scale=scale):
            def head(num_logits, name):
                return SpectralConv2D(num_logits, size, padding=padding, dtype="float32", name=f"{name}_{scale}")(x)

            logits = head(1, name)
            return logits if scene is None else logits + _of_scene(head(num_scenes, f"{name}_by_scene"), scene)

        for halving in range(len(inputs) - 1 - scale, 0, -1):
            x = convolve(x, f"halve_{halving}", width if halving > 1 else 2 * width, 4, strides=2)
        x = convolve(x, "conv", 2 * width, 3)
        patch_logits = judge(x, "positions", 3, "same")
        x = convolve(x, "whole_conv", 2 * width, 3, strides=2)
        global_logit = judge(x, "whole", x.shape[1:3], "valid")
        # Repeated, so that it weighs 0.3 times the patches in the mean.
        logits += [layers.Flatten()(patch_logits), *[layers.Flatten()(global_logit)] * max(1, round(0.3 * positions))]
    inputs += [] if scene is None else [scene]
    return keras.Model(inputs, layers.Concatenate()(logits), name="feature_discriminator")


def _conv(filters, size, strides=1, zeros=False, kind=layers.Conv2D, padding="same", **options):
    initializer = "zeros" if zeros else normal()
    return kind(filters, size, strides, padding=padding, kernel_initializer=initializer, **options)


def _up_conv(x, channels, name, fused):
    kind, x = (UpConv2D, x) if fused else (layers.Conv2D, layers.UpSampling2D()(x))
    return _conv(channels, 3, name=name, use_bias=False, kind=kind)(x)


def _norm(x, level, scene, fused):
    """Normalise a batch, and then scale and shift it for each scene (De Vries et al. 2017, arXiv:1707.00683)."""
    kind = BatchNormalization if fused else layers.BatchNormalization
    x = kind(name=f"norm_{level}", **BATCH_NORM)(x)
    if scene is None:
        return x

    def of_scene(name):
        dense = layers.Dense(x.shape[-1], use_bias=False, kernel_initializer=normal(0.3), name=f"{name}_{level}")
        return layers.Reshape((1, 1, -1))(dense(scene))

    return x * (1 + of_scene("scale")) + of_scene("shift")


def _of_scene(logits, scene):
    """Return, of logits for every scene (batch, ..., scenes), those for the frame's own: (batch, ..., 1).

    The logits that all scenes have are added to them, as in Miyato & Koyama 2018, arXiv:1802.05637.
    """
    scene = layers.Reshape((*[1] * (len(logits.shape) - 2), -1))(scene)
    return ops.sum(logits * ops.cast(scene, "float32"), -1, keepdims=True)


def _crop(frames, shape):
    """Cut rows and columns off at the bottom and on the right, down to `shape`."""
    cropping = [(0, have - want) for have, want in zip(frames.shape[1:3], shape, strict=False)]
    return layers.Cropping2D(cropping)(frames) if any(map(sum, cropping)) else frames


def _pad(frames, multiple):
    """Add rows and columns of zeros at the bottom and on the right, up to multiples of a number."""
    padding = [(0, -side % multiple) for side in frames.shape[1:3]]
    return layers.ZeroPadding2D(padding)(frames) if any(map(sum, padding)) else frames


def _widths(width, top):
    """Return the channels of each level, from the base to half the frame's size: falling evenly, in steps of 8."""
    last = max(min(top, MAX_DOWNSAMPLINGS) - 1, 1)
    exact = [width * MAX_WIDTH_MULTIPLIER ** (1 - min(level, last) / last) for level in range(top)]
    return [max(8 * round(channels / 8), 8) if channels > 8 else max(round(channels), 1) for channels in exact]
