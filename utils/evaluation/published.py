"""Results as published (Ramanathan et al., ICCV 2025): test patients, mean over three seeds."""

from __future__ import annotations

COHORTS = ("BRCA", "GBMLGG", "NSCLC", "RCC", "overall")

_SUBTYPE = """
GigaPath linear probe | 0.612 | 0.900 | 0.821 | 0.851 | 0.796
ABMIL | 0.853 | 0.931 | 0.920 | 0.921 | 0.906
TransMIL | 0.828 | 0.978 | 0.934 | 0.918 | 0.915
GigaPath tuned | 0.860 | 0.931 | 0.916 | 0.939 | 0.912
MLP (genes) | 0.752 | 0.998 | 0.926 | 0.883 | 0.890
S-MLP (genes) | 0.839 | 1.000 | 0.941 | 0.890 | 0.917
Gene Mixer | 0.840 | 1.000 | 0.932 | 0.898 | 0.917
MCAT | 0.875 | 0.973 | 0.921 | 0.933 | 0.925
SurvPath | 0.858 | 0.995 | 0.932 | 0.936 | 0.930
ABMIL (cat) | 0.861 | 1.000 | 0.951 | 0.937 | 0.937
TransMIL (cat) | 0.847 | 1.000 | 0.950 | 0.957 | 0.939
GigaPath (cat) | 0.850 | 0.998 | 0.924 | 0.926 | 0.925
ModalTune | 0.899 | 1.000 | 0.956 | 0.959 | 0.954
ModalTune pan-cancer | 0.858 | 0.990 | 0.958 | 0.902 | 0.927
"""
_SURVIVAL = """
GigaPath linear probe | 0.647 | 0.795 | 0.562 | 0.679 | 0.671
ABMIL | 0.712 | 0.854 | 0.582 | 0.670 | 0.704
TransMIL | 0.742 | 0.868 | 0.586 | 0.676 | 0.718
GigaPath tuned | 0.680 | 0.824 | 0.546 | 0.685 | 0.684
MLP (genes) | 0.629 | 0.884 | 0.542 | 0.720 | 0.694
S-MLP (genes) | 0.749 | 0.887 | 0.571 | 0.735 | 0.736
Gene Mixer | 0.762 | 0.870 | 0.556 | 0.690 | 0.719
MCAT | 0.673 | 0.880 | 0.592 | 0.697 | 0.710
SurvPath | 0.741 | 0.895 | 0.613 | 0.677 | 0.732
ABMIL (cat) | 0.736 | 0.896 | 0.605 | 0.690 | 0.732
TransMIL (cat) | 0.666 | 0.872 | 0.595 | 0.689 | 0.705
GigaPath (cat) | 0.678 | 0.861 | 0.573 | 0.693 | 0.701
ModalTune | 0.772 | 0.879 | 0.608 | 0.743 | 0.750
ModalTune pan-cancer | 0.757 | 0.860 | 0.586 | 0.705 | 0.727
"""


def _parse(text: str) -> dict[str, dict[str, float]]:
    rows = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    return {name: dict(zip(COHORTS, map(float, values), strict=True)) for name, *values in rows}


# By metric, method and cohort.
PUBLISHED = {"balanced_accuracy": _parse(_SUBTYPE), "concordance_index": _parse(_SURVIVAL)}
# What the methods of the tables are called, by --mil_name; adapters with genes are ModalTune.
METHODS = {
    "abmil": "ABMIL",
    "transmil": "TransMIL",
    "mlp": "MLP (genes)",
    "snn": "S-MLP (genes)",
    "gene_mixer": "Gene Mixer",
    "clinical_mlp": "MLP (clinical)",
    "mcat": "MCAT",
    "survpath": "SurvPath",
    "abmil_cat": "ABMIL (cat)",
    "transmil_cat": "TransMIL (cat)",
    "longnetvit_probe": "GigaPath linear probe",
    "longnetvit_tuned": "GigaPath tuned",
    "longnetvit_cat": "GigaPath (cat)",
    "longnetvit_gene_adapter": "ModalTune",
}
