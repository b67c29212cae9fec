from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from support.own_tables import bundled_table, rows_of, write_csv
from support.scoring import score

from serve_app.components.compiled import Components
from serve_app.components.saving import save_components
from serve_app.errors import ComponentsError, TableError
from serve_app.training.import_estimator import import_estimator


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers, a category, nulls: what a user's own Pipeline is fitted on."""
    random = np.random.default_rng(4)
    age, fare = random.normal(35, 12, 500).round(1), random.exponential(30, 500).round(2)
    port = random.choice(["C", "Q", "S"], 500)
    log_odds = (age - 35) / 10 - fare / 40 + (port == "Q")
    table = {
        "age": ["" if random.random() < 0.1 else str(cell) for cell in age],
        "fare": [str(cell) for cell in fare],
        "port": ["" if random.random() < 0.05 else str(cell) for cell in port],
        "survived": np.where(random.random(500) < 1 / (1 + np.exp(-log_odds)), "1", "0").tolist(),
    }
    return write_csv(tmp_path_factory.mktemp("people") / "people.csv", table)


def people_pipeline(sample: Path, last: Any) -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer((numbers, ["age", "fare"]), (OneHotEncoder(handle_unknown="ignore"), ["port"]))
    frame = pd.read_csv(sample)
    return make_pipeline(columns, last).fit(frame[["age", "fare", "port"]], frame["survived"])


def imported(folder: Path, estimator: Any, sample: Path, target: str) -> Components:
    joblib.dump(estimator, folder / "mine.pkl")
    return save_components(folder / "components", import_estimator(folder / "mine.pkl", sample, target=target))


@pytest.mark.parametrize("last", [LogisticRegression(), KNeighborsClassifier(), RandomForestClassifier(10, random_state=0)])
def test_a_pipeline_on_a_table_with_texts_answers_as_it_does_by_itself(tmp_path: Path, people: Path, last: Any) -> None:
    pipeline = people_pipeline(people, last)
    components = imported(tmp_path, pipeline, people, "survived")
    assert components.manifest.name == "mine"
    assert components.scorer.scored_by.startswith("scikit-learn")
    assert [column.kind for column in components.manifest.schema.columns] == ["numeric", "numeric", "categorical"]
    frame = pd.read_csv(people)[["age", "fare", "port"]]
    rows = [{name: None if pd.isna(cell) else cell for name, cell in row.items()} for row in frame[:40].to_dict("records")]
    served = score(components, [{str(name): cell for name, cell in row.items()} for row in rows])
    assert served == pytest.approx(pipeline.predict_proba(frame[:40]), abs=1e-12)


def wine(folder: Path) -> tuple[Path, np.ndarray, list[str]]:
    table = bundled_table("wine")
    data = np.array([[float(cell) for cell in cells] for name, cells in table.items() if name != "class"]).T
    return write_csv(folder / "wine.csv", table), data, table["class"]


@pytest.mark.parametrize(
    ("estimator", "scored_by"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), "compiled coefficients"),
        (make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=500)), "compiled coefficients"),
        (HistGradientBoostingClassifier(max_iter=10), "compiled trees; large batches by scikit-learn"),
        (RandomForestClassifier(10), "compiled trees"),
        (make_pipeline(StandardScaler(), RandomForestClassifier(10)), "compiled trees"),
        (make_pipeline(FunctionTransformer(np.sqrt), StandardScaler(), LogisticRegression()), None),
    ],
    ids=["logit", "imputed logit", "boosted", "forest", "scaled forest", "other"],
)
def test_what_is_linear_or_trees_is_compiled(tmp_path: Path, estimator: Any, scored_by: str | None) -> None:
    sample, data, classes = wine(tmp_path)
    model = estimator.fit(data, classes)
    components = imported(tmp_path, model, sample, "class")
    if scored_by is None:
        assert components.scorer.scored_by.startswith("scikit-learn")
    else:
        assert components.scorer.scored_by == scored_by
    rows = [{**row} for row in rows_of(bundled_table("wine"))]
    assert score(components, list(rows)) == pytest.approx(model.predict_proba(data), abs=1e-12)


def test_what_the_estimator_refuses_is_refused(tmp_path: Path) -> None:
    sample, data, classes = wine(tmp_path)
    components = imported(tmp_path, LogisticRegression(max_iter=10_000).fit(data, classes), sample, "class")
    assert {column.null for column in components.manifest.schema.columns} == {"reject"}
    boosted = tmp_path / "boosted"
    boosted.mkdir()
    components = imported(boosted, HistGradientBoostingClassifier(max_iter=5).fit(data, classes), sample, "class")
    assert {column.null for column in components.manifest.schema.columns} == {"impute"}


def test_a_pickle_that_is_none_or_holds_something_else_is_refused(tmp_path: Path) -> None:
    sample, data, classes = wine(tmp_path)
    for content, said in (
        (b"no pickle", "cannot be unpickled"),
        (pickle.dumps({"a": 1}), "a dict has no predict_proba"),
        (pickle.dumps(RidgeClassifier().fit(data, classes)), "a RidgeClassifier has no predict_proba"),
        (pickle.dumps(LogisticRegression()), "is not a fitted estimator"),
    ):
        (tmp_path / "mine.pkl").write_bytes(content)
        with pytest.raises(ComponentsError, match=said):
            import_estimator(tmp_path / "mine.pkl", sample, target="class")
    with pytest.raises(ComponentsError, match=r"none\.pkl: cannot be read"):
        import_estimator(tmp_path / "none.pkl", sample, target="class")


def test_an_estimator_of_another_version_is_refused(tmp_path: Path) -> None:
    sample, data, classes = wine(tmp_path)
    model = LogisticRegression(max_iter=10_000).fit(data, classes)
    content = io.BytesIO()
    pickle.dump(model, content)
    other = content.getvalue().replace(sklearn.__version__.encode(), b"0.0.1"[: len(sklearn.__version__)])
    (tmp_path / "mine.pkl").write_bytes(other)
    with pytest.raises(ComponentsError, match="InconsistentVersionWarning"):
        import_estimator(tmp_path / "mine.pkl", sample, target="class")


def test_a_sample_without_the_columns_is_refused(tmp_path: Path, people: Path) -> None:
    sample, data, classes = wine(tmp_path)
    joblib.dump(LogisticRegression(max_iter=10_000).fit(data, classes), tmp_path / "mine.pkl")
    with pytest.raises(TableError, match="has 3 columns; the estimator was fitted on 13"):
        import_estimator(tmp_path / "mine.pkl", people, target="survived")
    joblib.dump(people_pipeline(people, LogisticRegression()), tmp_path / "mine.pkl")
    with pytest.raises(TableError, match="has no column 'age'"):
        import_estimator(tmp_path / "mine.pkl", sample, target="class")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".parquet", ".json", ".jsonl"])
def test_a_sample_may_be_of_any_format_that_training_reads(tmp_path: Path, people: Path, suffix: str) -> None:
    frame = pd.read_csv(people)
    sample = tmp_path / f"sample{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(sample)
    elif suffix.startswith(".json"):
        frame.to_json(sample, orient="records", lines=suffix == ".jsonl")
    else:
        frame.to_csv(sample, index=False, sep="\t" if suffix == ".tsv" else ";", encoding="utf-16")
    components = imported(tmp_path, people_pipeline(people, LogisticRegression()), sample, "survived")
    assert [column.kind for column in components.manifest.schema.columns] == ["numeric", "numeric", "categorical"]
