"""Models: the catalogue of artefacts, their vocabularies and templates, and the tokeniser host."""

from parhelion.models.catalogue import ID_FORM, MIGRATIONS, Catalogue, Model, Pricing
from parhelion.models.gguf_file import inspect
from parhelion.models.packaged import DEFAULT_MODEL_ID, packaged_model
from parhelion.models.requantised import requantised
from parhelion.models.tokeniser import TokeniserHost
from parhelion.models.vocabulary import Vocabulary

__all__ = [
    "DEFAULT_MODEL_ID",
    "ID_FORM",
    "MIGRATIONS",
    "Catalogue",
    "Model",
    "Pricing",
    "TokeniserHost",
    "Vocabulary",
    "inspect",
    "packaged_model",
    "requantised",
]
