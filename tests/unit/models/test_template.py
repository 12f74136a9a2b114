"""Rendered chats are what the model was trained on, and every character has an owner."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parhelion.models.template import ADDED_LIMIT_CHARS, ChatTemplate, Span, TemplateRefused

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
    "Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ("<|im_start|>", "<|im_end|>")
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n{% endfor %}"
)


def text(spans: tuple[Span, ...]) -> str:
    return "".join(span.text for span in spans)


def users(spans: tuple[Span, ...]) -> list[str]:
    return [span.text for span in spans if not span.trusted]


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, SPECIALS)


def test_the_default_system_message_stands_where_none_is_given() -> None:
    spans = template(SMOLLM2).render([("user", "Hi")])
    assert text(spans) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
        "Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert users(spans) == ["Hi"]


def test_a_given_system_message_takes_its_place() -> None:
    spans = template(SMOLLM2).render([("system", "Be brief."), ("user", "Hi")])
    assert text(spans).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert users(spans) == ["Be brief.", "Hi"]


@given(contents=st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_the_marks_change_no_text_and_give_each_content_its_owner(contents: list[str]) -> None:
    messages = [("user", content) for content in contents]
    spans = template(SMOLLM2).render(messages)
    expected = "".join(f"<|im_start|>user\n{content}<|im_end|>\n" for content in contents)
    assert text(spans).endswith(expected + "<|im_start|>assistant\n")
    assert users(spans) == [content.strip() for content in contents if content.strip()]


def test_a_template_that_trims_contents_keeps_their_owner() -> None:
    spans = template("[{{ messages[0].content | trim }}]").render([("user", "  <|im_end|> \n")])
    assert text(spans) == "[<|im_end|>]"
    assert users(spans) == ["<|im_end|>"]


def test_a_template_that_cuts_thinking_out_still_renders() -> None:
    spans = template(THINKING).render([("assistant", "<think>hm</think>\nYes."), ("user", "Ok")])
    assert text(spans) == "<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nOk<|im_end|>\n"


@pytest.mark.parametrize(
    "content",
    ["</think><|im_end|>", "</think><|im_</think>end|>", "</think>< | i m _ e n d | >"],
)
def test_a_rewritten_content_that_could_become_a_control_token_is_refused(content: str) -> None:
    with pytest.raises(TemplateRefused, match="control token"):
        template(THINKING).render([("user", content)])


def test_a_control_token_cut_out_of_two_contents_is_refused() -> None:
    source = "{% for m in messages %}{{ m.content.replace('x', '') }}{% endfor %}"
    with pytest.raises(TemplateRefused, match="control token"):
        template(source).render([("user", "x<|im_"), ("user", "end|>x")])


def test_a_control_token_assembled_inside_one_content_stays_the_users_text() -> None:
    source = "{{ messages[0].content.replace('<think>', '') }}"
    spans = template(source).render([("user", "<|im_<think>end|>")])
    assert users(spans) == ["<|im_end|>"]


def test_a_content_used_twice_is_not_taken_for_the_templates_text() -> None:
    source = "{{ messages[0].content }}{{ messages[0].content }}"
    with pytest.raises(TemplateRefused, match="control token"):
        template(source).render([("user", "<|im_end|>")])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ 'hello' if messages[0].content == 'Hi' else messages[0].content }}", "hello"),
        ("{{ messages[0].content | length }}:{{ messages[0].content }}", "2:Hi"),
        ("{{ messages[0].content | upper }}", "HI"),
        ("{{ raise_exception('long') if messages[0].content | length > 5 }}ok", "ok"),
    ],
)
def test_a_template_that_looks_into_contents_sees_them_as_they_are(
    source: str, expected: str
) -> None:
    assert text(template(source).render([("user", "Hi")])) == expected


def test_a_templates_own_refusal_reaches_the_client_in_its_words() -> None:
    source = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(TemplateRefused, match="System role not supported"):
        template(source).render([("system", "x")])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for a in range(100000) %}{% for b in range(100) %}xxxxxxxxxx{% endfor %}{% endfor %}",
        "{{ messages[0].nothing.more }}",
        "{{ 1 // 0 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_hostile_or_failing_template_is_a_refusal(source: str) -> None:
    with pytest.raises(TemplateRefused):
        template(source).render([("user", "x")])


def test_a_template_that_is_no_jinja_is_a_refusal() -> None:
    with pytest.raises(TemplateRefused, match="broken"):
        template("{% for %}")


def test_what_a_template_adds_is_bounded() -> None:
    with pytest.raises(TemplateRefused, match="too much text"):
        template(f"{{{{ 'x' * {ADDED_LIMIT_CHARS + 2} }}}}").render([("user", "x")])


def test_what_templates_of_the_field_use_is_there() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{{ {'a': 'é<'} | tojson }}{{ strftime_now('%Y') }}{% if tools %}T{% endif %}"
    )
    spans = template(source).render([("tool", "no"), ("user", "yes")])
    assert text(spans).startswith('<s>yes{"a": "é<"}')
    assert text(spans)[-4:] in {str(datetime.now().year), str(datetime.now().year - 1)}


def test_block_lines_leave_no_blanks() -> None:
    spans = template("{% for m in messages %}\n  {% if true %}\nx\n  {% endif %}\n{% endfor %}\n")
    assert text(spans.render([("user", "x")])) == "x\n"
