"""How hard the synthetic faces are: every knob, in one place.

Set so that the AC-CNN of the default settings is right on about 75 % of the test faces after
supervised training with 60 labels of each expression (benchmarks/pipeline.py), and over 90 % with
the truth about all unlabelled faces. Wider nuisances (pose, light, sensor) make few labels worth
less; fainter expressions, more mixtures and more resting bias lower what any number of labels can
reach.
"""

# The expression itself.
INTENSITY = (0.80, 1.20)
"""Range of an expression's intensity, relative to its EMFACS prototype at 1."""
MIXTURE_SHARE = 0.15
"""Share of faces that carry a trace of a second expression."""
MIXTURE = (0.10, 0.25)
"""Range of the second expression's intensity."""
ACTION_UNIT_JITTER = 0.12
"""Standard deviation of each action unit's own intensity, relative."""
STRAY_ACTION_UNIT = 0.03
"""Scale of activity that belongs to no expression, in every action unit."""
ASYMMETRY = 0.15
"""Standard deviation of the difference between the two halves of the face, relative."""
RESTING_BIAS = 0.6
"""Factor on how far people's resting faces differ (low brows, down-turned mouth, heavy lids)."""

# What has nothing to do with it.
YAW, PITCH, ROLL = 15.0, 9.0, 10.0
"""Standard deviations, degrees."""
SCALE, SHIFT = 0.06, 0.045
"""Standard deviations of the crop: relative size, and shift in half sides."""
AMBIENT = (0.35, 0.80)
"""Range of the share of light that comes from everywhere; the rest has a direction."""
GAMMA = 0.30
"""Standard deviation of the logarithm of the camera's gamma."""
OCCLUSION_SHARE = 0.08
"""Share of faces that a hand, a scarf or an object partly covers."""
SUNGLASSES_SHARE = 0.02
NOISE = (0.004, 0.032)
"""Range of the sensor noise's standard deviation; 1 is white."""
BLUR = (0.2, 0.8)
"""Range of the blur's standard deviation, in pixels of a 48×48 face."""
JPEG_SHARE = 0.4
JPEG_QUALITY = (30, 85)
