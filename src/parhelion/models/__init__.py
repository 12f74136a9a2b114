"""Models: the catalogue of artefacts, their vocabularies and templates, and the tokeniser host."""

from parhelion.models.catalogue import ID_FORM, MIGRATIONS, Catalogue, Model, Prices, Pricing
from parhelion.models.families import BITS_PER_WEIGHT, KNOWN, KnownModel, known_model
from parhelion.models.gguf_file import inspect
from parhelion.models.model_weight import ModelWeight
from parhelion.models.off_loop import OffLoop
from parhelion.models.packaged import DEFAULT_MODEL_ID, packaged_model
from parhelion.models.requantised import requantised
from parhelion.models.slice_book import Slice, SliceBook, SliceCard
from parhelion.models.slices import check_file_sliceable
from parhelion.models.tokeniser import TokeniserHost
from parhelion.models.vocabulary import Vocabulary

__all__ = [
    "BITS_PER_WEIGHT",
    "DEFAULT_MODEL_ID",
    "ID_FORM",
    "KNOWN",
    "MIGRATIONS",
    "Catalogue",
    "KnownModel",
    "Model",
    "ModelWeight",
    "OffLoop",
    "Prices",
    "Pricing",
    "Slice",
    "SliceBook",
    "SliceCard",
    "TokeniserHost",
    "Vocabulary",
    "check_file_sliceable",
    "inspect",
    "known_model",
    "packaged_model",
    "requantised",
]
