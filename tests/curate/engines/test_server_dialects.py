"""The server engine and servers with habits of their own: what they refuse, how they answer, what they leave out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_testbed import Call, Fault, Server, ask, chunks, expected, right, served, text_of, texts

from curate.engines import build
from curate.engines.base import ASKED, Request, RequestRejected, Sample, Sampling
from curate.engines.server.answer import AnswerRefused, ChatAnswer, Unusable
from curate.engines.server.refusals import read, without
from curate.errors import UserError
from curate.recipe.sections import EngineConfig

pytest.importorskip("openai")

Make = Callable[[Fault], Server]


@pytest.fixture
def server() -> Iterator[Make]:
    open_ones: list[Server] = []

    def make(script: Fault) -> Server:
        open_ones.append(Server(script))
        return open_ones[-1]

    yield make
    for each in open_ones:
        each.close()


def refuse(call: Call, body: object, status: int = 400) -> None:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    call.head(status, "application/json", Content_Length=len(data))
    call.handler.wfile.write(data)


def openai_error(text: str, **more: object) -> dict[str, Any]:
    return {"error": {"message": text, "type": "invalid_request_error", **more}}


def unless(refused: Callable[[dict[str, Any]], object]) -> Fault:
    """A server that refuses a body with what `refused` says about it, and answers the others rightly."""

    def script(call: Call) -> None:
        error = refused(call.body)
        if error:
            refuse(call, error)
        else:
            right(call)

    return script


def one_after_the_other(there: Server, requests: list[Request], notes: list[str]) -> list[list[Sample]]:
    async def run() -> list[list[Sample]]:
        config = EngineConfig(kind="server", model="m", urls=(there.url,), args={"backoff": 0.01})
        async with build(config, notes.append) as engine:
            return [await engine.generate(request) for request in requests]

    return asyncio.run(run())


# --- what is asked ---------------------------------------------------------------------------------------------------


def only_one(call: Call) -> None:
    call.head()
    call.send(*chunks(call.body, 1))


def of_500(call: Call) -> None:
    if call.body["n"] > 1:
        refuse(call, {"error": {"code": 500, "message": "Only one completion choice is allowed"}}, 500)
    else:
        right(call)


def at_most_three(call: Call) -> None:
    if call.body["n"] > 3:
        refuse(call, {"message": f"Invalid input: n={call.body['n']} must be between 1 and 3"}, 422)
    else:
        right(call)


@pytest.mark.parametrize(
    ("script", "first"),
    [
        (only_one, [3, 1, 1]),
        (unless(lambda body: body["n"] > 1 and openai_error("Only one completion choice is allowed")), [3, 1, 1, 1]),
        (of_500, [3, 1, 1, 1]),
        (unless(lambda body: body["n"] > 1 and {"error": "`n` > 1 is not supported", "error_type": "validation"}),
         [3, 1, 1, 1]),
        (unless(lambda body: body["n"] > 1 and {"detail": [{"loc": ["body", "n"], "msg": "Input should be 1"}]}),
         [3, 1, 1, 1]),
    ],
    ids=["ignored", "refused", "refused-as-a-fault", "refused-by-text", "refused-by-place"],
)  # fmt: skip
def test_a_server_that_gives_one_sample_is_asked_for_each_and_only_the_first_request_pays(
    server: Make, script: Fault, first: list[int]
) -> None:
    there = server(script)
    notes: list[str] = []
    answers = one_after_the_other(there, [ask(1), ask(2)], notes)
    assert [texts(answer) for answer in answers] == [expected(ask(1)), expected(ask(2))]
    assert [body["n"] for body in there.bodies] == [*first, 1, 1, 1]
    assert sum("sample" in note for note in notes) == 1
    # Each sample has a seed of its own, the one that is recorded.
    assert {body["seed"] for body in there.bodies if body["n"] == 1} >= {257, 258, 512, 513, 514}
    assert [sample.seed for answer in answers for sample in answer] == [ASKED] * 6


def test_a_server_that_gives_some_samples_is_asked_for_so_many(server: Make) -> None:
    there = server(at_most_three)
    (answer,) = served([there.url], [ask(1, n=8)])
    assert texts(answer) == expected(ask(1, n=8))
    assert there.bodies[0]["n"] == 8
    assert sorted(body["n"] for body in there.bodies[1:]) == [2, 3, 3]
    assert sorted(body["seed"] for body in there.bodies[1:]) == [256, 259, 262]


@pytest.mark.parametrize(
    ("parameter", "error"),
    [
        ("logprobs", openai_error("This model does not support logprobs.", param="logprobs")),
        ("return_token_ids", openai_error("Unrecognized request argument supplied: return_token_ids")),
        ("return_token_ids", {"detail": [{"type": "extra_forbidden", "loc": ["body", "return_token_ids"],
                                          "msg": "Extra inputs are not permitted"}]}),
        ("return_token_ids", [{"error": {"message": 'Unknown name "return_token_ids": Cannot find field.'}}]),
        ("return_token_ids", "unknown field `return_token_ids`, expected one of `model`, `n`, `seed`, `logprobs`"),
        ("stream_options", openai_error("stream_options is only allowed when stream is enabled")),
        ("stream", openai_error("Unsupported value: 'stream' does not support true with this model", param="stream")),
        ("top_p", openai_error("`temperature` and `top_p` cannot both be specified for this model.")),
    ],
)  # fmt: skip
def test_what_only_informs_or_has_no_effect_is_left_out_after_its_refusal(
    server: Make, parameter: str, error: object
) -> None:
    there = server(unless(lambda body: parameter in body and error))
    notes: list[str] = []
    answers = one_after_the_other(there, [ask(1), ask(2)], notes)
    assert [texts(answer) for answer in answers] == [expected(ask(1)), expected(ask(2))]
    assert len(there.bodies) == 3
    first, *others = there.bodies
    assert first.keys() - others[-1].keys() <= {parameter, "stream_options"} and parameter not in others[-1]
    assert sum(parameter in note for note in notes) == 1


def test_what_was_left_out_without_an_effect_is_sent_where_it_has_one(server: Make) -> None:
    there = server(unless(lambda body: body.get("top_p") == 1.0 and openai_error("top_p is not supported")))
    narrow = Request("r", "Why?", (), (), 3, 512, Sampling(1.0, 0.5, 0, 50))
    answers = one_after_the_other(there, [ask(1), narrow], [])
    assert [texts(answer) for answer in answers] == [expected(ask(1)), expected(narrow)]
    assert [body.get("top_p") for body in there.bodies] == [1.0, None, 0.5]


def test_a_refusal_that_names_several_parameters_is_heeded_at_once(server: Make) -> None:
    error = openai_error("UnsupportedParamsError: this model does not support parameters: ['logprobs', 'n']")
    there = server(unless(lambda body: ("logprobs" in body or body.get("n", 1) > 1) and error))
    assert texts(served([there.url], [ask(1)])[0]) == expected(ask(1))
    assert len(there.bodies) == 1 + 3


def test_the_budget_goes_by_its_new_name_where_the_old_one_is_refused_and_not_where_it_is_too_large(
    server: Make,
) -> None:
    there = server(
        unless(lambda body: "max_tokens" in body and openai_error("Unsupported parameter: 'max_tokens'. Use "
               "'max_completion_tokens' instead.", code="unsupported_parameter"))
    )  # fmt: skip
    (answer,) = served([there.url], [ask(1)])
    assert texts(answer) == expected(ask(1)) and there.bodies[1]["max_completion_tokens"] == 50
    small = server(
        unless(lambda body: openai_error("'max_tokens' or 'max_completion_tokens' is too large: 50. This model's "
               "maximum context length is 40 tokens."))
    )  # fmt: skip
    (answer,) = served([small.url], [ask(1)])
    assert isinstance(answer, RequestRejected) and "maximum context" in str(answer) and len(small.bodies) == 1


@pytest.mark.parametrize(
    ("sampling", "name", "cure"),
    [
        (Sampling(0.6, 1.0, 0, 50), "temperature", "sampling.temperature to 1"),
        (Sampling(1.0, 0.9, 0, 50), "top_p", "sampling.top_p to 1"),
        (Sampling(1.0, 1.0, 40, 50), "top_k", "sampling.top_k to 0"),
        (Sampling(1.0, 1.0, 0, 50), "seed", "engine.args.seed: false"),
    ],
)
def test_a_refused_parameter_that_decides_what_is_sampled_ends_the_command_with_its_cure(
    server: Make, sampling: Sampling, name: str, cure: str
) -> None:
    there = server(unless(lambda body: name in body and openai_error(f"property '{name}' is unsupported")))
    request = Request("r", "Why?", (), (), 2, 256, sampling)
    (answer,) = served([there.url], [request])
    assert isinstance(answer, UserError) and cure in str(answer) and f"property '{name}'" in str(answer)
    assert len(there.bodies) == 1


def test_without_a_seed_none_is_sent_and_none_recorded(server: Make) -> None:
    def script(call: Call) -> None:
        call.whole({"choices": [{"message": {"content": "so"}, "finish_reason": "stop"}] * call.body["n"]})

    there = server(script)
    (answer,) = served([there.url], [ask(1)], seed=False)
    assert "seed" not in there.bodies[0] and [sample.seed for sample in answer] == [None] * 3


@given(
    seed=st.integers(min_value=0, max_value=2**62 - 1).map(lambda each: each & ~0xFF),
    bound=st.sampled_from([None, 65535, 999_999]),
)
@settings(max_examples=5, deadline=None)
def test_seeds_fit_where_they_go_and_those_of_a_request_stay_apart(seed: int, bound: int | None) -> None:
    """Wider ones would be refused, or rounded to a double by the server: all samples would be one."""

    def script(call: Call) -> None:
        if bound is not None and not 0 <= call.body["seed"] <= bound:
            refuse(call, openai_error(f"seed must be between 0 and {bound}"))
        else:
            only_one(call)

    there = Server(script)
    (answer,) = served([there.url], [Request("r", "Why?", (), (), 4, seed, Sampling(1.0, 1.0, 0, 50))])
    there.close()
    sent = [sample.seed_of(seed + place) for place, sample in enumerate(answer)]
    assert texts(answer) == [text_of(each) for each in sent]
    assert len(set(sent)) == 4 and all(each == float(each) and each < 2**31 for each in sent)
    assert bound is None or max(sent) <= bound


def test_texts_go_as_texts_and_images_as_parts(server: Make) -> None:
    def texts_only(body: dict[str, Any]) -> object:
        many = any(not isinstance(turn["content"], str) for turn in body["messages"])
        return many and {"message": "messages[0].content: expected a string, found a sequence"}

    there = server(unless(texts_only))
    assert texts(served([there.url], [ask(1)])[0]) == expected(ask(1))
    assert there.bodies[0]["messages"] == [{"role": "user", "content": "Why?"}]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (openai_error("no such model"), "no such model"),
        ({"error": "busy now"}, "busy now"),
        ({"detail": [{"loc": ["body", "model"], "msg": "wrong"}]}, "body.model: wrong"),
        ({"object": "error", "message": {"detail": "too old"}}, "too old"),
        ("<html><head><title>x</title></head><body><h1>502</h1> Bad\n gateway</body></html>", "502 Bad gateway"),
        ("plain words", "plain words"),
        ({"strange": 1}, '{"strange": 1}'),
        (openai_error("long " * 500), "long long"),
        ("", ""),
    ],
)
def test_the_servers_own_words_are_shown(server: Make, body: Any, said: str) -> None:
    (answer,) = served([server(lambda call: refuse(call, body)).url], [ask(1)])
    assert isinstance(answer, RequestRejected) and "HTTP 400" in str(answer) and said in str(answer)
    assert len(str(answer)) < 500 and "\n" not in str(answer)


def test_a_key_that_a_server_says_again_is_not_shown(server: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-proj-0123456789abcdefghij"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    notes: list[str] = []
    for body in (openai_error(f"Incorrect API key provided: {key}."), f"Bearer {key}", {"token": key[4:20]}):
        (answer,) = served([server(lambda call, body=body: refuse(call, body, 401)).url], [ask(1)], notes)  # type: ignore[misc]
        assert "***" in str(answer) and not any(key[at : at + 8] in str(answer) + "".join(notes) for at in range(20))
    failing = server(lambda call: call.whole({"error": {"message": f"{key} has no credit", "code": 503}}))
    (answer,) = served([failing.url], [ask(1)], notes, retries=3)
    assert "has no credit" in str(answer) and key not in str(answer) + "".join(notes)


@given(st.text(alphabet="abcd", min_size=4, max_size=30), st.text(alphabet="abcd ", max_size=60))
def test_no_piece_of_a_key_is_left(secret: str, around: str) -> None:
    least = min(8, len(secret))
    left = without(around + secret + around, secret)
    assert not any(secret[at : at + least] in left for at in range(len(secret) - least + 1))


def test_redirects_are_not_followed_and_the_key_stays(server: Make) -> None:
    other = server(right)
    there = server(lambda call: call.fail(307, Location=f"{other.url}/chat/completions"))
    (answer,) = served([there.url], [ask(1)])
    assert isinstance(answer, RequestRejected) and "redirects are not followed" in str(answer)
    assert not other.bodies and len(there.bodies) == 1


def test_a_url_that_is_no_base_url_is_said(server: Make) -> None:
    for body, said in ((openai_error("Not Found"), True), (openai_error("The model `m` does not exist."), False)):
        (answer,) = served([server(lambda call, body=body: refuse(call, body, 404)).url], [ask(1)])  # type: ignore[misc]
        assert isinstance(answer, RequestRejected) and ("base URLs" in str(answer)) == said


def test_an_empty_quota_is_not_asked_again(server: Make) -> None:
    there = server(lambda call: refuse(call, openai_error("You exceeded it", code="insufficient_quota"), 429))
    (answer,) = served([there.url], [ask(1)])
    assert isinstance(answer, RequestRejected) and len(there.bodies) == 1


@pytest.mark.parametrize("place", ["stream", "whole"])
def test_an_error_inside_an_answer_is_what_its_code_says(server: Make, place: str) -> None:
    def script(error: dict[str, Any], call: Call) -> None:
        if place == "whole":
            call.whole(error)
        else:
            call.head()
            call.send(error)

    for code, asked in ((400, 1), (503, 3)):
        error = {"object": "error", "message": "prompt too long", "code": code}
        there = server(partial(script, error))
        (answer,) = served([there.url], [ask(1)], retries=2)
        assert isinstance(answer, RequestRejected) and "prompt too long" in str(answer) and len(there.bodies) == asked


# --- how it answers --------------------------------------------------------------------------------------------------


def taken(*documents: object, n: int = 1, sep: str = "\n\n", head: str = "data: ", maximum: int = 50) -> list[Sample]:
    """The samples of a stream of these documents, byte by byte."""
    lines = [each if isinstance(each, str) else json.dumps(each) for each in documents]
    data = "".join(f"{head}{line}{sep}" for line in lines).encode()
    answer = ChatAnswer(n, maximum)
    for at in range(len(data)):
        answer.feed(data[at : at + 1])
    answer.close()
    return answer.samples([-1] * n)


def delta(finish: str | None = None, index: int | None = 0, **said: object) -> dict[str, Any]:
    choice = {"index": index, "delta": said, "finish_reason": finish}
    return {"choices": [{name: value for name, value in choice.items() if value is not None}]}


def whole(*messages: dict[str, Any], finish: str | None = "stop", **usage: object) -> dict[str, Any]:
    choices = [{"index": at, "message": each, "finish_reason": finish} for at, each in enumerate(messages)]
    return {"choices": choices, "usage": usage}


@pytest.mark.parametrize("sep", ["\n\n", "\r\n\r\n", "\r\r", "\n", "\n\n: ping\n\nevent: message\nid: 3\nretry: 9\n"])
@pytest.mark.parametrize("head", ["data: ", "data:", "\ufeffdata: ", ""])
def test_every_kind_of_stream_holds_the_same(sep: str, head: str) -> None:
    if not head and ":" in sep:
        pytest.skip("lines of JSON have no comments")
    text = "a\u2028b\x85 ü"
    parts = [delta(role="assistant", content=None), *(delta(content=each) for each in text), delta("stop")]
    (sample,) = taken(*parts, *(["[DONE]"] if head else []), sep=sep, head=head)
    assert (sample.text, sample.finish) == (text, "stop")


def test_documents_may_share_a_line_or_take_several() -> None:
    one, two = json.dumps(delta(content="a")), json.dumps(delta("stop", content="b"))
    assert taken(one + two)[0].text == "ab"
    pretty = json.dumps(delta("stop", content="b"), indent=1).replace("\n", "\ndata: ")
    assert taken(one, pretty)[0].text == "ab"
    assert taken(one, "", "ping", "null", two)[0].text == "ab"
    with pytest.raises(Unusable, match="valid JSON"):
        taken(one, '{"choices": [', "", two)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_are_kept_apart_wherever_a_server_puts_them(name: str) -> None:
    parts = [delta(**{name: "hm "}), delta(**{name: "so"}), delta("stop", content="7")]
    assert [(each.text, each.reasoning) for each in taken(*parts)] == [("7", "hm so")]
    parts = [whole({"content": "7", name: "hm so"})]
    assert [(each.text, each.reasoning) for each in taken(*parts, head="")] == [("7", "hm so")]
    # Some say it twice.
    assert (
        taken(whole({"content": "7", name: "hm", "reasoning_details": [{"text": "hm"}]}), head="")[0].reasoning == "hm"
    )


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab", None),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "7"}],
            "7",
            "hm",
        ),
        ([{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "7"}], "7", "hm"),
        ([{"type": "thinking", "thinking": "hm", "signature": "x"}, "7"], "7", "hm"),
        ({"type": "text", "text": "7"}, "7", None),
        ([{"type": "refusal", "refusal": "No."}], "No.", None),
    ],
)
def test_a_content_of_parts_is_its_texts(content: object, text: str, reasoning: str | None) -> None:
    for sample in (*taken(whole({"content": content}), head=""), *taken(delta(content=content), delta("stop"))):
        assert (sample.text, sample.reasoning) == (text, reasoning)


def test_a_part_that_is_no_text_makes_no_sample() -> None:
    with pytest.raises(Unusable, match="image_url"):
        taken(whole({"content": [{"type": "image_url", "image_url": {}}]}), head="")


def test_a_budget_spent_on_thoughts_is_a_sample_that_was_cut() -> None:
    (sample,) = taken(delta(reasoning_content="hm " * 5), delta("length"))
    assert (sample.text, sample.finish, sample.reasoning) == ("", "length", "hm " * 5)
    # A server that keeps the thoughts to itself.
    (sample,) = taken(whole({"content": ""}, finish="length", completion_tokens=50), head="")
    assert (sample.text, sample.finish, sample.count()) == ("", "length", 50)
    assert taken(whole({"content": None}, finish="max_tokens"), head="")[0].count() is None


def test_an_answer_that_a_server_took_for_thoughts_is_the_answer(server: Make) -> None:
    (sample,) = taken(delta(reasoning_content="It is 7."), delta("stop"))
    assert (sample.text, sample.finish, sample.reasoning) == ("It is 7.", "stop", None)
    notes: list[str] = []
    served([server(lambda call: call.whole(whole({"reasoning": "It is 7."}))).url], [ask(1, n=1)] * 2, notes)
    assert sum("nothing but thoughts" in note for note in notes) == 1


def test_thinking_is_progress(server: Make) -> None:
    """It takes twice the stall, and no text comes meanwhile."""

    def thinks(call: Call) -> None:
        call.head()
        for _ in range(10):
            call.send(*(delta(index=i, reasoning="hm ") for i in range(call.body["n"])))
            time.sleep(0.1)
        call.send(*chunks(call.body))

    there = server(thinks)
    (answer,) = served([there.url], [ask(1)])
    assert texts(answer) == expected(ask(1)) and answer[0].reasoning == "hm " * 10 and len(there.bodies) == 1


@pytest.mark.parametrize(
    ("said", "finish"),
    [("eos", "stop"), ("STOP", "stop"), ("end_turn", "stop"), ("stop_sequence", "stop"), ("MAX_TOKENS", "length"),
     ("model_length", "length"), ("", "stop"), (None, "stop"), ("content_filter", "error"), ("SAFETY", "error"),
     ("tool_calls", "error"), ("never-seen", "error")],
)  # fmt: skip
def test_reasons_of_an_end_in_other_words(said: str | None, finish: str) -> None:
    (sample,) = taken(delta(said, content="7"), "[DONE]")
    assert sample.finish == finish and (finish != "error" or str(said) in str(sample.error))


def test_an_end_of_which_nothing_is_said_is_a_cut_where_the_budget_is_spent() -> None:
    for tokens, finish in ((50, "length"), (49, "stop")):
        done = {"choices": [], "usage": {"completion_tokens": tokens}}
        assert taken(delta(content="7"), done, "[DONE]")[0].finish == finish
        assert taken(delta(content="7"), done)[0].finish == finish
    with pytest.raises(Unusable, match="broke off"):
        taken(delta(content="7"), {**delta(content="8"), "usage": {"completion_tokens": 2}})


def test_a_refusal_is_the_models_answer() -> None:
    assert taken(whole({"content": None, "refusal": "I cannot."}), head="")[0].text == "I cannot."
    (sample,) = taken(delta(refusal="I can"), delta("content_filter", refusal="not."), "[DONE]")
    assert (sample.text, sample.finish) == ("I cannot.", "stop")


def test_a_filtered_answer_is_rejected_with_its_reason_and_not_asked_again(server: Make) -> None:
    there = server(lambda call: call.whole(whole(*[{"content": ""}] * call.body["n"], finish="content_filter")))
    (answer,) = served([there.url], [ask(1)])
    assert [sample.error for sample in answer] == ["the server ended a sample with content_filter"] * 3
    assert len(there.bodies) == 1


def test_choices_without_a_number_are_taken_where_there_is_no_doubt() -> None:
    unnumbered = {"choices": [{"message": {"content": each}, "finish_reason": "stop"} for each in "ab"]}
    assert [sample.text for sample in taken(unnumbered, n=2, head="")] == ["a", "b"]
    first = {"choices": [{**each, "index": 0} for each in unnumbered["choices"]]}
    assert [sample.text for sample in taken(first, n=2, head="")] == ["a", "b"]
    assert taken(delta(content="a", index=None), delta("stop", index=None))[0].text == "a"
    for mixed in (
        [delta(content="a", index=None), delta(content="b", index=None), delta("stop", index=None)],
        [delta("stop", content="a"), delta("stop", content="b")],
    ):
        with pytest.raises(Unusable, match="does not say which"):
            taken(*mixed, n=2)
    # Of one sample, pieces may come behind a reason that says too early that it is over.
    assert taken(delta("stop", content="a"), delta("stop", content="b"))[0].text == "ab"


def test_mixed_up_samples_are_asked_for_one_by_one(server: Make) -> None:
    def script(call: Call) -> None:
        call.head()
        for document in chunks(call.body):
            call.send({**document, "choices": [{**each, "index": 0} for each in document["choices"]]})

    def unnumbered(call: Call) -> None:
        call.head()
        for document in chunks(call.body):
            for each in document["choices"]:
                call.send({"choices": [{name: value for name, value in each.items() if name != "index"}]})

    for there in (server(script), server(unnumbered)):
        answers = served([there.url], [ask(1), ask(2)])
        assert [texts(answer) for answer in answers] == [expected(ask(1)), expected(ask(2))]


def test_a_stream_that_ends_with_the_whole_message_says_it_once() -> None:
    last = {"choices": [{"index": 0, "message": {"content": "so 7"}, "finish_reason": "stop"}]}
    assert taken(delta(content="so "), delta(content="7"), last)[0].text == "so 7"
    assert taken(delta("stop", content="so 7"), last)[0].text == "so 7"


@pytest.mark.parametrize(
    ("usage", "known"),
    [(9, 9), (9.0, 9), (0, None), (None, None), (-4, None), (1e30, None), (10**40, None), ("9", None), (True, None),
     (float("nan"), None), (2.5, None)],
)  # fmt: skip
def test_a_count_that_cannot_be_right_is_null(usage: object, known: int | None) -> None:
    (sample,) = taken(whole({"content": "7"}, prompt_tokens=usage, completion_tokens=usage), head="")
    assert (sample.prompt_tokens, sample.count()) == (known, known)


def piece_of(text: str, token: object, logprob: object, spelled: object) -> dict[str, Any]:
    entry = {"token": text, "logprob": logprob, "bytes": spelled}
    return {"choices": [{"index": 0, "delta": {"content": text}, "token_ids": [token], "logprobs": {"content": [entry]},
                         "finish_reason": "length"}]}  # fmt: skip


@pytest.mark.parametrize("token", [2**40, -1, 1.5, "7", None])
def test_token_ids_that_are_none_are_left_out_and_said(server: Make, token: object) -> None:
    (sample,) = taken(piece_of("7", token, -0.5, [55]))
    assert (sample.text, list(sample.token_ids), sample.mean_logprob) == ("7", [], -0.5)
    notes: list[str] = []

    def script(call: Call) -> None:
        call.head()
        call.send(piece_of("7", token, -0.5, [55]))

    served([server(script).url], [ask(1, n=1), ask(2, n=1)], notes)
    assert sum("token ids that are none" in note for note in notes) == 1


@pytest.mark.parametrize("logprob", [float("nan"), float("-inf"), 3.0, 10**400, "low", True, None])
def test_a_logprob_that_is_none_makes_the_mean_null(logprob: object) -> None:
    (sample,) = taken(piece_of("7", 7, logprob, [55]))
    assert sample.mean_logprob is None and list(sample.token_ids) == [7]


@pytest.mark.parametrize("spelled", [10**12, [300], ["a"], "55", {"0": 55}])
def test_bytes_that_are_none_make_no_sample(spelled: object) -> None:
    with pytest.raises(Unusable):
        taken(piece_of("7", 7, -0.5, spelled))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda each: st.lists(each, max_size=3) | st.dictionaries(
                        st.sampled_from(["choices", "delta", "message", "content", "index", "finish_reason", "usage",
                                         "prompt_tokens", "token_ids", "logprobs", "bytes", "error", "code", "text",
                                         "type", "reasoning"]), each, max_size=4), max_leaves=12))  # fmt: skip
@settings(deadline=None, max_examples=120)
def test_whatever_a_server_says_is_samples_or_no_answer(tree: object) -> None:
    try:
        samples = taken({"choices": [tree]} if isinstance(tree, dict) else tree)
    except (Unusable, AnswerRefused):
        return
    for sample in samples:
        assert isinstance(sample.text, str) and sample.finish in ("stop", "length", "repetition", "error")
        assert all(isinstance(each, int) and 0 <= each < 2**31 for each in sample.token_ids)
        assert sample.prompt_tokens is None or 0 < sample.prompt_tokens < 2**31


@given(st.binary(max_size=200))
def test_whatever_bytes_come_are_samples_or_no_answer(data: bytes) -> None:
    answer = ChatAnswer(1, 5)
    with pytest.raises((Unusable, AnswerRefused)):
        answer.feed(data)
        answer.feed(b"\ndata: " + data + b"\n\n")
        answer.close()
        answer.samples([1])


def test_an_answer_without_an_end_fills_no_memory(server: Make) -> None:
    def endless(call: Call) -> None:
        call.head()
        line = b"data: " + b"x" * 100_000 + b"\n\n"
        while True:
            call.handler.wfile.write(line)

    def endless_error(call: Call) -> None:
        call.head(400, "text/plain")
        while True:
            call.handler.wfile.write(b"no " * 10_000)

    (answer,) = served([server(endless).url], [ask(1, n=1)], retries=0, timeout=20.0)
    assert isinstance(answer, RequestRejected) and "bytes" in str(answer)
    (answer,) = served([server(endless_error).url], [ask(1, n=1)], timeout=20.0)
    assert isinstance(answer, RequestRejected) and "refused: HTTP 400: no no no" in str(answer)


def test_refusals_name_what_they_refuse() -> None:
    sent = ["n", "seed", "top_p", "logprobs", "stream"]
    for text, names in [
        ("Unknown parameter: 'seed'.", ["seed"]),
        ("property 'logprobs' is unsupported, supported parameters: n, seed, top_p", ["logprobs"]),
        ("Multiple completions are not supported", ["n"]),
        ("The stream of your thoughts, in a prompt", []),
        ("Your prompt 'n seed' is rude", []),
    ]:
        assert read(400, openai_error(text)).names(sent) == names, text
