"""Layers that several aggregators share: gated attention, Nystrom attention, self-normalising networks."""
