import pytest

from bench import papers, qwen_like
from wlsweep.run.layout import RunDir


@pytest.fixture(scope="session")
def tokenizer():
    return qwen_like.build(papers.paragraphs(100, seed=5))


@pytest.fixture(scope="session")
def model(tokenizer, tmp_path_factory):
    """A folder with the tokenizer, as a model's folder holds it."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "runs" / "one")
