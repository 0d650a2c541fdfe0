"""Our pictures: composed by hand, each of few units that do one thing each.

A concept of a picture is a unit of its graph: a ring, the petals, the wings. What a picture shows twice is computed once, and its mirror image comes from units that
are even in x (or in y): no weight makes the two halves differ unless it reads x itself.
"""

from circuits.fracture.images.graph import Graph, Unit


def _u(activation: str, **reads: float) -> Unit:
    return Unit(activation, reads)


GALLERY: dict[str, Graph] = {
    "rosette": Graph(
        about="Eight petals about a flower of four; all eight symmetries of the square.",
        symmetry="square",
        units={
            "near_x": _u("gaussian", x=1.5),
            "near_y": _u("gaussian", y=1.5),
            "petals": _u("cos", near_x=4.4, near_y=-4.4),
            "outer": _u("tanh", d=-7.0, petals=1.1, one=8.0),
            "inner": _u("tanh", d=-8.0, petals=-1.0, one=4.6),
            "heart": _u("gaussian", d=3.6),
            "rings": _u("cos", d=15.0, petals=-1.0),
            "hue": _u("identity", outer=0.16, inner=0.13, heart=0.09, petals=-0.02, one=0.75),
            "saturation": _u("identity", outer=0.1, inner=-0.05, rings=-0.06, heart=0.08, one=0.7),
            "value": _u("identity", outer=0.32, inner=0.04, rings=0.06, heart=0.04, petals=0.04, one=0.56),
        },
    ),
    "snowflake": Graph(
        about="Three crossing arms over three waves at sixty degrees; two mirrors hold pixel by pixel.",
        symmetry="two mirrors",
        units={
            "arm_0": _u("gaussian", x=6.0),
            "arm_1": _u("gaussian", x=3.0, y=5.196),
            "arm_2": _u("gaussian", x=3.0, y=-5.196),
            "wave_0": _u("cos", y=19.0),
            "wave_1": _u("cos", y=9.5, x=16.454),
            "wave_2": _u("cos", y=9.5, x=-16.454),
            "crystal": _u(
                "tanh", arm_0=1.9, arm_1=1.9, arm_2=1.9, wave_0=0.45, wave_1=0.45, wave_2=0.45, d=-1.8, one=4.9
            ),
            "glow": _u("gaussian", d=1.7),
            "hue": _u("identity", crystal=-0.14, glow=0.17, one=0.8),
            "saturation": _u("identity", crystal=-0.1, glow=0.05, wave_0=-0.05, wave_1=-0.05, wave_2=-0.05, one=0.6),
            "value": _u("identity", crystal=0.33, glow=0.08, one=0.6),
        },
    ),
    "butterfly": Graph(
        about="Two pairs of wings about a body; left and right alike.",
        symmetry="left-right",
        units={
            "side": _u("gaussian", x=1.15),
            "upper_x": _u("gaussian", side=1.7, one=-0.6),
            "upper_y": _u("gaussian", y=2.2, side=-0.9, one=1.2),
            "lower_x": _u("gaussian", side=2.4, one=-1.5),
            "lower_y": _u("gaussian", y=2.6, side=0.65, one=-1.5),
            "upper": _u("tanh", upper_x=3.0, upper_y=3.0, one=-1.6),
            "lower": _u("tanh", lower_x=3.0, lower_y=3.0, one=-1.6),
            "spots": _u("cos", upper_x=4.0, upper_y=4.0, lower_x=3.0, lower_y=3.0),
            "trunk": _u("gaussian", x=11.0),
            "length": _u("gaussian", y=1.5),
            "body": _u("sigmoid", trunk=7.0, length=7.0, one=-7.0),
            "hue": _u("identity", upper=0.12, lower=-0.16, spots=0.03, one=0.78),
            "saturation": _u("identity", upper=0.33, lower=0.33, spots=0.06, body=-0.1, one=0.72),
            "value": _u("identity", upper=0.03, lower=0.03, spots=-0.07, body=-0.4, one=0.52),
        },
    ),
    "owl": Graph(
        about="Two ringed eyes and a beak in a feathered head; left and right alike.",
        symmetry="left-right",
        units={
            "left": _u("gaussian", x=2.6, one=1.15),
            "right": _u("gaussian", x=2.6, one=-1.15),
            "level": _u("gaussian", y=2.3, one=0.5),
            "eye": _u("identity", left=1.0, right=1.0, level=1.0),
            "iris": _u("tanh", eye=7.0, one=-1.4),
            "pupil": _u("tanh", eye=14.0, one=-10.5),
            "head": _u("tanh", d=-6.0, left=1.6, right=1.6, one=8.2),
            "feathers": _u("cos", d=13.0, eye=3.0),
            "middle": _u("gaussian", x=6.0),
            "below": _u("gaussian", y=3.4, one=-0.6),
            "beak": _u("sigmoid", middle=6.0, below=6.0, one=-5.0),
            "hue": _u("identity", head=-0.3, iris=0.05, beak=0.04, feathers=0.01, one=0.36),
            "saturation": _u("identity", iris=0.12, pupil=-0.2, feathers=0.06, beak=0.15, one=0.62),
            "value": _u("identity", head=0.05, iris=0.2, pupil=-0.42, feathers=0.07, beak=0.15, one=0.4),
        },
    ),
}
