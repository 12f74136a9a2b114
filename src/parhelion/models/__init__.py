"""Models: the catalogue of artefacts, their vocabularies and templates, and the tokeniser host."""

from parhelion.models.catalogue import ID_FORM, MIGRATIONS, Catalogue, Model, Pricing
from parhelion.models.families import BITS_PER_WEIGHT, KNOWN, KnownModel, known_model
from parhelion.models.gguf_file import inspect
from parhelion.models.packaged import DEFAULT_MODEL_ID, packaged_model
from parhelion.models.requantised import requantised
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
    "Pricing",
    "TokeniserHost",
    "Vocabulary",
    "inspect",
    "known_model",
    "packaged_model",
    "requantised",
]
