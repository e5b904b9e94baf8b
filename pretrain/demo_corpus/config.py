"""What a demo corpus is made of: counts, sizes and the knobs of its difficulty."""

import hashlib
import json
from dataclasses import asdict, dataclass

TEXTURES = ("plain", "striped", "dotted", "checkered")
COLOURS = ("red", "green", "blue", "yellow", "white", "purple", "orange", "cyan")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
ACTIONS = (
    "moves left",
    "moves right",
    "moves up",
    "moves down",
    "stays still",
    "spins",
    "grows",
    "shrinks",
    "blinks",
    "circles clockwise",
    "circles counterclockwise",
    "appears",
    "disappears",
    "changes colour",
)
GENERATOR_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """The defaults are the small corpus, made for a few minutes on two cores."""

    seed: int = 0
    """Everything random follows from it."""
    train_videos: int = 3000
    """Clips to learn from."""
    test_videos: int = 200
    """Clips of the retrieval gallery, all with different meanings."""
    width: int = 64
    """Pixels, even."""
    height: int = 64
    """Pixels, even."""
    fps: int = 8
    """Frames per second."""
    seconds: float = 2.0
    """Length of a clip; fps * seconds must be an even whole number of frames."""
    textures: int = 2
    """How many of plain, striped, dotted, checkered."""
    colours: int = 6
    """How many of red, green, blue, yellow, white, purple, orange, cyan."""
    shapes: int = 5
    """How many of circle, square, triangle, star, cross, ring, heart, moon."""
    actions: int = 9
    """How many of moves left, right, up, down, stays still, spins, grows, shrinks, blinks, circles
    clockwise, counterclockwise, appears, disappears, changes colour."""
    objects: int = 2
    """Most objects in a scene."""
    phases: int = 2
    """Most actions that follow each other in a scene."""
    object_size: float = 0.3
    """Usual width of an object as a fraction of the shorter side."""
    travel: float = 0.48
    """Usual length of a move as a fraction of the shorter side."""
    background_strength: float = 0.12
    """Contrast of the drifting background, 0 (even grey) to 1."""
    size_jitter: float = 0.1
    """Object sizes vary by up to this fraction."""
    speed_jitter: float = 0.12
    """Lengths of moves and speeds of turning vary by up to this fraction."""
    captions_per_video: int = 4
    """Different sentences for a training clip; a test clip has one."""
    held_out_fraction: float = 0.2
    """Share of the colour-shape pairs and of the shape-action pairs that only the test shows."""
    train_paired_fraction: float = 0.6
    """Share of the training clips with such a partner, beside it in the same group."""
    paired_fraction: float = 0.5
    """Share of the test clips with a partner that differs in order or direction alone."""

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_fractions()
        if self.width % 2 or self.height % 2:
            raise ValueError(
                f"frames of {self.width}x{self.height} cannot be H.264 with halved chroma; "
                "choose an even width and height"
            )
        if self.fps * self.seconds != self.frames or self.frames % 2:
            raise ValueError(
                f"{self.seconds} seconds at {self.fps} fps are {self.fps * self.seconds:g} frames; "
                "choose a length with an even whole number of frames"
            )
        if self.frames < 4 * self.phases:
            raise ValueError(
                f"{self.frames} frames are too few for {self.phases} phases; "
                f"choose at least {4 * self.phases} frames"
            )

    def _check_counts(self) -> None:
        for name, least, most in (
            ("train_videos", 1, 10_000_000),
            ("test_videos", 2, 1_000_000),
            ("width", 32, 1024),
            ("height", 32, 1024),
            ("fps", 1, 120),
            ("textures", 1, len(TEXTURES)),
            ("colours", 3, len(COLOURS)),
            ("shapes", 3, len(SHAPES)),
            ("actions", 4, len(ACTIONS)),
            ("objects", 1, 3),
            ("phases", 1, 3),
            ("captions_per_video", 1, 20),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}; choose {least} to {most}")

    def _check_fractions(self) -> None:
        for name, least, most in (
            ("seconds", 0.1, 600.0),
            ("object_size", 0.1, 0.4),
            ("travel", 0.2, 0.6),
            ("background_strength", 0.0, 1.0),
            ("size_jitter", 0.0, 0.5),
            ("speed_jitter", 0.0, 0.5),
            ("held_out_fraction", 0.05, 0.5),
            ("train_paired_fraction", 0.0, 1.0),
            ("paired_fraction", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}; choose {least} to {most}")

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return round(self.fps * self.seconds)

    @property
    def fingerprint(self) -> str:
        """sha256 of this configuration and the generator's version."""
        content = json.dumps({"version": GENERATOR_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def small_corpus(
    *, seed: int = 0, train_videos: int = 3000, test_videos: int = 200
) -> CorpusConfig:
    """64 px, 16 frames, up to two objects and two phases: learned in minutes on two cores."""
    return CorpusConfig(seed=seed, train_videos=train_videos, test_videos=test_videos)


def full_corpus(
    *, seed: int = 0, train_videos: int = 100_000, test_videos: int = 1000
) -> CorpusConfig:
    """96 px, 32 frames, every attribute, up to three objects and three phases: for a GPU."""
    return CorpusConfig(
        seed=seed,
        train_videos=train_videos,
        test_videos=test_videos,
        width=96,
        height=96,
        seconds=4.0,
        textures=len(TEXTURES),
        colours=len(COLOURS),
        shapes=len(SHAPES),
        actions=len(ACTIONS),
        objects=3,
        phases=3,
        object_size=0.26,
        travel=0.42,
        background_strength=0.25,
        size_jitter=0.2,
        speed_jitter=0.2,
        captions_per_video=6,
    )
