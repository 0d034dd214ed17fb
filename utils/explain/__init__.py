"""Why a trained model says what it says: attributions, attention, maps, pathways, reports.

``python -m utils.explain RUN`` writes them; docs/explain.md says what they mean.
"""
