"""What an answer comes to when it is the very one that came before."""

import orjson

from catalyst.broker.request import Answer
from catalyst.broker.responses import Same, order_page
from tests.broker.scripted_server import order_json


def answer(*rows: object, status: int = 200) -> Answer:
    return Answer(status, orjson.dumps(rows), {})


def test_the_same_bytes_come_to_the_same_and_others_are_read() -> None:
    """The same page is not read twice; one in which a single figure differs is."""
    digest = Same(order_page)
    heard: list[str] = []
    first = digest(answer(order_json(id="one", status="new")), lambda why, _: heard.append(why))
    again = digest(answer(order_json(id="one", status="new")), lambda why, _: heard.append(why))
    assert again is first
    (page, _) = digest(answer(order_json(id="one", status="filled")), lambda why, _: heard.append(why))
    assert [one.broker_status for one in page] == ["filled"]
    (page, _) = digest(answer(order_json(id="one", status="new")), lambda why, _: heard.append(why))
    assert [one.broker_status for one in page] == ["new"]
    assert heard == []


def test_a_row_that_cannot_be_understood_is_told_of_each_time() -> None:
    """It is in none of the results, so nobody would hear of it if its page were remembered."""
    digest = Same(order_page)
    heard: list[str] = []
    for _ in range(2):
        (page, _more) = digest(
            answer(order_json(id="one"), {"id": "no order"}), lambda why, _: heard.append(why)
        )
        assert [one.broker_id for one in page] == ["one"]
    assert len(heard) == 2
