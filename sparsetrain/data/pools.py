"""The names that prompts are made of, dealt to four disjoint splits.

Every list is ordered roughly by how often the name occurs in Python code or in children's stories, and dealt like cards
(first name to train, second to val, ...), so that the splits are equally familiar to a model. A circuit that works on
heldout pairs has therefore never been fitted on any of their identifiers. Names that are part of a task's definition
(`self`, `range`, `input`, `current`) are not drawn from here.
"""

from dataclasses import dataclass, fields
from typing import Literal, get_args

Split = Literal["train", "val", "heldout", "shifted"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The names of one split. No name occurs in two splits or in two lists."""

    split: Split
    variables: tuple[str, ...]
    functions: tuple[str, ...]
    collections: tuple[str, ...]
    counters: tuple[str, ...]
    paths: tuple[str, ...]
    handles: tuple[str, ...]
    suffixes: tuple[str, ...]
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    boys: tuple[str, ...]
    girls: tuple[str, ...]
    places: tuple[str, ...]
    actions: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the split."""
        return tuple(name for field in fields(self) if field.name != "split" for name in getattr(self, field.name))

    @property
    def shifted(self) -> bool:
        """Whether prompts also vary their surface form: more distractors, longer or nested context."""
        return self.split == "shifted"


_DECK: dict[str, str] = {
    "variables": """
        value data name result item text count line size key node message obj arg state mode code start end first last
        head width height offset length level limit total score price amount rate speed weight point color status field
        entry record token label title group parent child owner user client server host port address event error reply
        response request query option flag prefix pattern section block chunk part piece buffer cache queue stack tree
        table row column cell page position depth order rank delta step scale angle radius area volume unit
    """,
    "functions": """
        read write get run call load save parse check update create build find match search sort merge split send
        connect close stop handle process compute render draw fetch apply convert encode decode reset clear flush remove
        append insert delete copy move push pop register notify validate verify resolve format compile execute install
        wait lock wrap trim shift replace select filter
    """,
    "collections": """
        items lines values names keys files args parts tokens nodes rows fields entries results records users events
        groups points numbers words lists tags labels options messages children parents scores colors steps pages
        blocks chunks cells tables queues stacks trees servers clients hosts ports errors
    """,
    "counters": "i j k n idx index num pos x y ii jj",
    "paths": "path filename source target fname directory location dest root folder archive config",
    "handles": "f fp fh fd file stream writer out infile reader sink doc",
    "suffixes": "txt csv json rst dat xml html md ini cfg yaml toml",
    "adjectives": """
        red big new old blue good small bad green long hot short cold happy black sad white fast gray slow pink dark
        round bright soft loud tall quiet brown warm wet dry
    """,
    "nouns": """
        dog cat bird ball fox fish hill box car hat boat frog house bear book duck cup cake toy horse door kite bed
        rabbit chair mouse shoe flower cow apple pig lamp rock bus ship plum leaf coat drum sheep
    """,
    "boys": """
        Tom Tim Ben Sam Max Jack John Bob Leo Jim Paul Peter Mark Adam David James Luke Henry George Fred Billy Mike
        Joe Dan
    """,
    "girls": """
        Lily Mary Anna Sue Lucy Mia Sara Amy Emma Jane Kate Lisa Molly Ella Rose Nina Julia Alice Betty Clara Daisy Ruth
        Helen Eve
    """,
    "places": "park store school beach farm garden lake market",
    "actions": """
        went home|ran away|fell down|woke up|sat down|got hurt|came back|got lost|stood up|lay down|looked up|jumped in
    """,
}


def pool(split: Split) -> Pool:
    """The names of one split.

    Args:
        split: one of `SPLITS`.

    Raises:
        ValueError: on an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    deal = SPLITS.index(split)
    decks = {field.name: _DECK[field.name] for field in fields(Pool) if field.name != "split"}
    return Pool(
        split=split,
        **{
            name: tuple(card.strip() for card in (deck.split("|") if "|" in deck else deck.split()))[
                deal :: len(SPLITS)
            ]
            for name, deck in decks.items()
        },
    )
