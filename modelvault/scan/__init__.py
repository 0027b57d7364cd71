"""Static assessment of a model before it is sealed, shipped or run: rules over the graph, its files and its weights."""

from modelvault.scan.finding import RULES, Finding, Rule
from modelvault.scan.ownership import Claims
from modelvault.scan.scanning import ScanReport, scan, scan_decrypted, scan_public

__all__ = ["RULES", "Claims", "Finding", "Rule", "ScanReport", "scan", "scan_decrypted", "scan_public"]
