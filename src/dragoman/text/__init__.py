"""Token ids and bytes: what every id of a tokenizer spells, and what a tokenizer makes of any bytes."""

from dragoman.text.diff import matching_runs
from dragoman.text.pair import PairTables
from dragoman.text.placing import Placed
from dragoman.text.tokenization import Tokenization
from dragoman.text.vocabulary import VocabularyMap, vocabulary_map
from dragoman.text.words import NOWHERE

__all__ = [
    "NOWHERE",
    "PairTables",
    "Placed",
    "Tokenization",
    "VocabularyMap",
    "matching_runs",
    "vocabulary_map",
]
