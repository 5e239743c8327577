"""The tests of integrations whose packages the test environment lacks, under the releases that
pyproject.toml names.
"""

from __future__ import annotations

import pytest

from tests.helpers.releases import installed, run_tests

TRL = ("trl==1.16.0", "datasets", "dill", "multiprocess", "xxhash", "accelerate")
LM_EVAL = (
    "lm-eval==0.4.13",
    "absl-py",
    "chardet",
    "dataproperty",
    "datasets",
    "defusedxml",
    "dill",
    "evaluate",
    "joblib",
    "lxml",
    "mbstrdecoder",
    "more-itertools",
    "multiprocess",
    "narwhals",
    "nltk",
    "pathvalidate",
    "portalocker",
    "pytablewriter",
    "python-dateutil",
    "pytz",
    "rouge-score",
    "sacrebleu",
    "scikit-learn",
    "scipy",
    "six",
    "sqlitedict",
    "tabledata",
    "tabulate",
    "tcolorpy",
    "threadpoolctl",
    "typepy",
    "word2number",
    "xxhash",
)
"""Each with what it needs besides what the tests have, so that torch is not fetched again."""


@pytest.mark.network
@pytest.mark.slow
def test_the_trainers_run_with_the_real_trl() -> None:
    run_tests(installed("trl-1.16.0", TRL, "--no-deps"), "tests/integrations/test_trl.py")


@pytest.mark.network
@pytest.mark.slow
def test_the_model_class_runs_with_the_real_lm_eval() -> None:
    folder = installed("lm-eval-0.4.13", LM_EVAL, "--no-deps")
    run_tests(
        folder, "tests/integrations/test_lm_eval.py", "tests/integrations/test_lm_eval_class.py"
    )
