"""Multiple choice against a token-by-token computation, on questions from files."""

from __future__ import annotations

import json
import math

import pytest
import torch

from flexcim_flow.measure import multiple_choice
from flexcim_flow.measure.multiple_choice import MultipleChoice, Question, QuestionError, answer, read_questions
from flexcim_flow.samples.text import tokenize
from tests.support.tiny_models import byte_tokenizer, tiny_llama, tiny_mamba2

pytestmark = pytest.mark.torch

QUESTIONS = (
    Question("In the beginning was ", ("the word", "a", "the very long answer that no one gives", "bytes"), 0),
    Question("Words are made of ", ("two words", "words of four"), 1),
    Question("é", ("è", "à", "e"), 2),
)


def log_likelihood(model, context: str, choice: str) -> float:
    """Of the choice's bytes, one after the other."""
    tokens = tokenize(context + choice, byte_tokenizer())
    total = 0.0
    for place in range(len(context.encode()), len(tokens)):
        with torch.no_grad():
            logits = model(input_ids=tokens[None, :place]).logits[0, -1]
        total += logits.log_softmax(0)[tokens[place]].item()
    return total


@pytest.mark.parametrize("build", [tiny_llama, tiny_mamba2])
@pytest.mark.parametrize("batch_tokens", [1, 60, 1000])
def test_the_likeliest_choice_is_found(build, batch_tokens):
    model = build()
    likeliest = by_byte = 0
    for question in QUESTIONS:
        found = [log_likelihood(model, question.context, choice) for choice in question.choices]
        by_size = [value / len(choice.encode()) for value, choice in zip(found, question.choices, strict=True)]
        likeliest += max(found) == found[question.answer]
        by_byte += max(by_size) == by_size[question.answer]
    result = answer(model, byte_tokenizer(), QUESTIONS, None, batch_tokens=batch_tokens)
    assert result == MultipleChoice(3, likeliest, by_byte)


def test_exactly_one_choice_is_the_likeliest():
    question = QUESTIONS[0]
    found = [
        answer(tiny_llama(), byte_tokenizer(), [Question(question.context, question.choices, right)], None)
        for right in range(len(question.choices))
    ]
    assert sum(result.likeliest for result in found) == sum(result.likeliest_by_byte for result in found) == 1
    assert {result.accuracy for result in found} == {result.accuracy_by_byte for result in found} == {0.0, 1.0}


def test_a_context_that_is_too_long_loses_its_beginning(monkeypatch):
    seen: list[list[int]] = []

    def favour_the_second(model, texts, counts, batch_tokens):
        seen.extend(text.tolist() for text in texts)
        return [0, 1]

    monkeypatch.setattr(multiple_choice, "_log_likelihoods", favour_the_second)
    question = Question("a" * 100 + "b" * 10, ("cd", "efg"), 1)
    assert answer(tiny_llama(), byte_tokenizer(), [question], 11).likeliest == 1
    # Eleven tokens are seen to predict the twelfth.
    wanted = [tokenize(text, byte_tokenizer()).tolist() for text in ("b" * 10 + "cd", "b" * 9 + "efg")]
    assert seen == wanted


def test_the_standard_error_of_an_accuracy():
    result = MultipleChoice(101, 25, 50)
    assert result.standard_error(result.accuracy) == pytest.approx(math.sqrt(25 / 101 * 76 / 101 / 100))
    assert math.isnan(MultipleChoice(1, 1, 1).standard_error(1.0))


def test_questions_are_read_line_by_line(tmp_path):
    path = tmp_path / "questions.jsonl"
    lines = [json.dumps(vars(question)) for question in QUESTIONS]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    assert read_questions(path) == QUESTIONS


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", r"line 3 is no JSON \(Expecting property name enclosed in double quotes\)"),
        ("[1]", "line 3 must be an object with answer, choices and context, not list"),
        ('{"context": "a"}', "line 3 must be an object with answer, choices and context, not context"),
        (
            '{"context": "", "choices": ["a", "b"], "answer": 0}',
            "line 3 must have a context of at least one character, not ''",
        ),
        (
            '{"context": "a", "choices": ["b"], "answer": 0}',
            r"line 3 must have a list of at least two texts as choices, not \['b'\]",
        ),
        (
            '{"context": "a", "choices": ["b", ""], "answer": 0}',
            r"line 3 must have a list of at least two texts as choices, not \['b', ''\]",
        ),
        (
            '{"context": "a", "choices": ["b", "c"], "answer": 2}',
            "line 3 must have the index of one of its 2 choices as answer, not 2",
        ),
        (
            '{"context": "a", "choices": ["b", "c"], "answer": true}',
            "line 3 must have the index of one of its 2 choices as answer, not True",
        ),
    ],
)
def test_a_bad_line_is_named(line, complaint, tmp_path):
    path = tmp_path / "questions.jsonl"
    good = json.dumps(vars(QUESTIONS[0]))
    path.write_text(f"{good}\n\n{line}\n{good}\n", encoding="utf-8")
    with pytest.raises(QuestionError, match=f"questions.jsonl: {complaint}$"):
        read_questions(path)


def test_a_choice_longer_than_the_models_context_is_refused():
    with pytest.raises(QuestionError, match=r"^choice 'the word' of question 1 must have 1 to 4 tokens, not 8$"):
        answer(tiny_llama(), byte_tokenizer(), QUESTIONS, 4)
