"""The Cox model of the survival probes, fitted by lifelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lifelines
import numpy as np
import pandas as pd
from lifelines.fitters.coxph_fitter import SemiParametricPHFitter


class CoxModel(SemiParametricPHFitter):
    """The Cox model behind lifelines' ``CoxPHFitter`` with a ridge penalty, without what its plots and tables need.

    lifelines differentiates its penalty, which may have an absolute part, at every step anew, and computes medians of
    the covariates, standard errors and intervals at the end; together most of the time of a fit.
    """

    def __init__(self, ridge: float) -> None:
        super().__init__()
        self.ridge, self._penalised = ridge, False

    def fit(self, *args: Any, **options: Any) -> SemiParametricPHFitter:
        """As in lifelines.

        Raises:
            ImportError: this version of lifelines fits in another way, so that the penalty would be left out.
        """
        super().fit(*args, **options)
        if not self._penalised:
            raise ImportError(
                f"lifelines {lifelines.__version__} cannot fit the survival probes: install 0.30.3"
            )
        return self

    def _choose_gradient_calculator(self, T: pd.Series, X: pd.DataFrame, entries: None) -> Callable[..., Any]:
        derivatives = super()._choose_gradient_calculator(T, X, entries)

        def penalised(X: pd.DataFrame, *args: Any) -> tuple[np.ndarray, np.ndarray, float]:
            self._penalised = True
            hessian, gradient, likelihood = derivatives(X, *args)
            beta, factor = args[-1], len(X) * self.ridge
            hessian[np.diag_indices(len(beta))] -= factor
            return (
                hessian,
                gradient - factor * beta,
                likelihood - len(X) * (self.ridge * (0.5 * beta**2)).sum(),
            )

        return penalised

    def _compute_central_values_of_raw_training_data(
        self, df: pd.DataFrame, strata: object = None, name: str = "baseline"
    ) -> pd.DataFrame:
        return pd.DataFrame(index=[name])

    def _compute_standard_errors(self, *args: object) -> pd.Series:
        return pd.Series(dtype=np.float64)

    def _compute_confidence_intervals(self) -> pd.DataFrame:
        return pd.DataFrame()
