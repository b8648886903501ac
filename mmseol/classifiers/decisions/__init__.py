"""Decisions chosen after training: families of class factors, their winners, tallies and selection."""

from mmseol.classifiers.decisions.families import FAMILIES, KINDS, Family, estimated_weights, make_family
from mmseol.classifiers.decisions.free import ElementSample, fit_free
from mmseol.classifiers.decisions.outputs import OutputReader
from mmseol.classifiers.decisions.selection import Selection, check_classes, select
from mmseol.classifiers.decisions.tallies import DecisionTallies
from mmseol.classifiers.decisions.winners import Winners, find_winners

__all__ = [
    "FAMILIES",
    "KINDS",
    "DecisionTallies",
    "ElementSample",
    "Family",
    "OutputReader",
    "Selection",
    "Winners",
    "check_classes",
    "estimated_weights",
    "find_winners",
    "fit_free",
    "make_family",
    "select",
]
