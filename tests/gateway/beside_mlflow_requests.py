"""Requests for the models of `beside_mlflow_models`: every form that MLflow documents, and what goes wrong with it."""

import io
import json
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tests.gateway.beside_mlflow_models import frame

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"

ROW: dict[str, Any] = {
    "late": True,
    "seats": 100,
    "number": 1099511627776,
    "share": 0.1,
    "delay": 0.1,
    "carrier": "UA",
    "raw": "AP8=",
    "day": "2013-01-01",
}
FULL = ROW | {"wind": 1.5, "note": "x", "until": "2014-01-01T00:00:00", "stops": 2, "paid": False}


@dataclass(frozen=True)
class Sent:
    """One request.

    Attributes:
        model: For which model.
        body: As it goes over the wire.
        kind: Its content type.
    """

    model: str
    body: bytes
    kind: str = JSON


def _json(model: str, content: Any) -> Sent:
    return Sent(model, json.dumps(content).encode())


def _row(**changes: Any) -> Sent:
    return _json("plain", {"dataframe_records": [ROW | changes]})


def _without(*names: str) -> Sent:
    return _json("plain", {"dataframe_records": [{k: v for k, v in ROW.items() if k not in names}]})


def _split(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}


def _csv(text: str, model: str = "plain", kind: str = CSV) -> Sent:
    return Sent(model, text.encode(), kind)


def _parquet(table: pd.DataFrame, model: str = "plain") -> Sent:
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return Sent(model, buffer.getvalue(), PARQUET)


_HEAD = "late,seats,number,share,delay,carrier"
_CSV_TYPES = frame().drop(columns=["raw", "day"])
_NUMBERS = {"x": 1.5, "y": 2.5}

REQUESTS: dict[str, Sent] = {
    # the documented forms
    "split": _json("plain", {"dataframe_split": _split([ROW, FULL | {"late": False}][:1])}),
    "split of pandas": Sent(
        "plain", b'{"dataframe_split": ' + frame().to_json(orient="split", date_format="iso").encode() + b"}"
    ),
    "split with an index of texts": _json("numbers", {"dataframe_split": _split([_NUMBERS]) | {"index": ["a"]}}),
    "split without columns": _json("numbers", {"dataframe_split": {"data": [[1, 2]]}}),
    "split with an index that is too long": _json(
        "numbers", {"dataframe_split": _split([_NUMBERS]) | {"index": [1, 2]}}
    ),
    "split with a short row": _json("numbers", {"dataframe_split": {"columns": ["x", "y"], "data": [[1]]}}),
    "split with a column twice": _json(
        "numbers", {"dataframe_split": {"columns": ["x", "x", "y"], "data": [[1, 2, 3]]}}
    ),
    "split with another key": _json("numbers", {"dataframe_split": _split([_NUMBERS]) | {"rows": 1}}),
    "split that is a list": _json("numbers", {"dataframe_split": [1]}),
    "split without rows": _json("numbers", {"dataframe_split": {"columns": ["x", "y"], "data": []}}),
    "records": _json("plain", {"dataframe_records": [ROW, ROW | {"late": False}]}),
    "records with every column": _json("plain", {"dataframe_records": [FULL, FULL]}),
    "records, one with an optional column": _json(
        "plain", {"dataframe_records": [ROW, ROW | {"wind": 2.5, "note": "n"}]}
    ),
    "records that are a dictionary": _json("numbers", {"dataframe_records": _NUMBERS}),
    "records of lists": _json("numbers", {"dataframe_records": [[1, 2]]}),
    "no records": _json("numbers", {"dataframe_records": []}),
    "instances of records": _json("plain", {"instances": [ROW, ROW]}),
    "instances of lists": _json("numbers", {"instances": [[1.5, 2.5]]}),
    "instances of numbers": _json("params", {"instances": [1.5, 2]}),
    "instances of columns": _json("numbers", {"instances": {"x": [1, 2], "y": [3, 4]}}),
    "inputs of columns": _json("plain", {"inputs": {name: [value, value] for name, value in ROW.items()}}),
    "inputs of records": _json("plain", {"inputs": [ROW]}),
    "inputs of one row": _json("numbers", {"inputs": _NUMBERS}),
    "inputs of numbers": _json("params", {"inputs": [1.5, 2]}),
    "inputs of one number": _json("params", {"inputs": 1.5}),
    "inputs of lists": _json("numbers", {"inputs": [[1.5, 2.5]]}),
    "inputs of unequal columns": _json("numbers", {"inputs": {"x": [1, 2], "y": [3]}}),
    "two forms": _json("numbers", {"inputs": [_NUMBERS], "instances": [_NUMBERS]}),
    "no form": _json("numbers", {"columns": ["x"], "data": [[1]]}),
    "another key beside the form": _json("numbers", {"inputs": [_NUMBERS], "client": "x"}),
    "a list": _json("numbers", [_NUMBERS]),
    "a number": _json("numbers", 1),
    "no JSON": Sent("numbers", b"{"),
    "nothing": Sent("numbers", b""),
    "not UTF-8": Sent("numbers", b'{"inputs": "\xff"}'),
    "another content type": Sent("numbers", b"{}", "text/plain"),
    "another charset": Sent("numbers", b'{"inputs": [{"x": 1, "y": 2}]}', "application/json; charset=latin-1"),
    "the charset": Sent("numbers", b'{"inputs": [{"x": 1, "y": 2}]}', "application/json; charset=utf-8"),
    "another parameter of the type": Sent("numbers", b'{"inputs": [{"x": 1, "y": 2}]}', "application/json; header=no"),
    "a chat": _json("texts", {"messages": [{"role": "user", "content": "hi"}]}),
    "a prompt": _json("texts", {"prompt": "hi"}),
    # columns
    "an extra column": _row(tailnum="N1"),
    "columns in another order": _json("plain", {"dataframe_records": [dict(reversed(ROW.items()))]}),
    "a missing column": _without("delay"),
    "several missing columns": _without("delay", "carrier"),
    "no column of the model": _json("numbers", {"dataframe_records": [{"z": 1}]}),
    "a missing column in one row": _json("numbers", {"dataframe_records": [_NUMBERS, {"x": 1}]}),
    "a column in another case": _json("numbers", {"dataframe_records": [{"X": 1, "y": 2}]}),
    # values
    "text of other scripts": _row(carrier="Zoë ✈ 日本 \u0000"),
    "an empty text": _row(carrier=""),
    "a number for a text": _row(carrier=5),
    "a boolean for a text": _row(carrier=True),
    "null for a text": _row(carrier=None),
    "a list for a text": _row(carrier=["UA"]),
    "a number in a text": _row(delay="2.5"),
    "an integer in a text": _row(seats="12", number="13"),
    "a text for a number": _row(delay="soon"),
    "a text for an integer": _row(seats="many"),
    "a boolean for a number": _row(delay=True),
    "a boolean for an integer": _row(seats=True),
    "a whole float for an integer": _row(seats=3.0, number=4.0),
    "a fraction for an integer": _row(seats=3.7),
    "a fraction in a text for an integer": _row(seats="3.7"),
    "null for an integer": _row(seats=None),
    "null for a number": _row(delay=None),
    "null for a float": _row(share=None),
    "null for a boolean": _row(late=None),
    "null for a date": _row(day=None),
    "null for bytes": _row(raw=None),
    "null for optional columns": _row(wind=None, note=None, until=None),
    "null for an optional integer": _row(stops=None),
    "null for an optional boolean": _row(paid=None),
    "NaN for a number": _row(delay=float("nan")),
    "NaN for a float": _row(share=float("nan")),
    "NaN for an integer": _row(seats=float("nan")),
    "NaN for a text": _row(carrier=float("nan")),
    "NaN for a boolean": _row(late=float("nan")),
    "infinity for a number": _row(delay=float("inf")),
    "infinity below zero for a float": _row(share=float("-inf")),
    "a number beyond an integer": _row(seats=2**31),
    "a number beyond a long": _row(number=2**63),
    "a number beyond a float": _row(share=1e39),
    "a number beyond a double": Sent("numbers", b'{"inputs": [{"x": 1e400, "y": 1}]}'),
    "a number of many digits": Sent("numbers", b'{"inputs": [{"x": 1' + b"0" * 400 + b', "y": 1}]}'),
    "digits beyond a double": _row(delay=0.1234567890123456789),
    "one for true": _row(late=1),
    "a float for true": _row(late=1.0),
    "two for true": _row(late=2),
    "the text true": _row(late="true"),
    "the text False": _row(late="False"),
    "another text for true": _row(late="yes"),
    "an integer for a number": _row(delay=3, share=4),
    "a list for a number": _row(delay=[1.0]),
    "a dictionary for a number": _row(delay={}),
    "no base64": _row(raw="é"),
    "base64 without its end": _row(raw="AP8"),
    "base64 in lines": _row(raw="AP8A\n/wA="),
    "a number for bytes": _row(raw=5),
    "a date with a time": _row(day="2013-01-01T05:30:00"),
    "a date with a blank": _row(day="2013-01-01 05:30:00"),
    "a date with microseconds": _row(day="2013-01-01T05:30:00.123456"),
    "a date in UTC": _row(day="2013-01-01T05:30:00Z"),
    "a date with an offset": _row(day="2013-01-01T05:30:00+02:00"),
    "a date as a number": _row(day=1357018200000),
    "a date by another order": _row(day="01/31/2013"),
    "no date": _row(day="yesterday-ish"),
    "a date beyond nanoseconds": _row(day="9999-01-01"),
    "dates of two forms": _json("plain", {"dataframe_records": [ROW, ROW | {"day": "2013-01-01T05:30:00"}]}),
    "a lone surrogate": Sent("plain", json.dumps({"dataframe_records": [ROW | {"carrier": "\ud800"}]}).encode()),
    # parameters
    "no parameters": _json("params", {"inputs": [1.5]}),
    "parameters": _json(
        "params", {"inputs": [1.5], "params": {"threshold": 0.25, "top": 5, "mode": "slow", "stops": ["a", "b"]}}
    ),
    "an integer parameter for a double": _json("params", {"inputs": [1.5], "params": {"threshold": 1}}),
    "a float parameter for a long": _json("params", {"inputs": [1.5], "params": {"top": 5.5}}),
    "a text parameter for a double": _json("params", {"inputs": [1.5], "params": {"threshold": "high"}}),
    "a list parameter for a text": _json("params", {"inputs": [1.5], "params": {"mode": ["slow"]}}),
    "a text parameter for a list": _json("params", {"inputs": [1.5], "params": {"stops": "a"}}),
    "null for a parameter": _json("params", {"inputs": [1.5], "params": {"top": None}}),
    "an unknown parameter": _json("params", {"inputs": [1.5], "params": {"other": 1}}),
    "null for the parameters": _json("params", {"inputs": [1.5], "params": None}),
    "no dictionary of parameters": _json("params", {"inputs": [1.5], "params": [1]}),
    "parameters for a model without": _json("numbers", {"inputs": [_NUMBERS], "params": {"top": 5}}),
    # tables in a file
    "CSV": _csv(_CSV_TYPES.to_csv(index=False), "unsigned"),
    "CSV of pandas": _csv("x,y\n1.5,2\n-3,4e2\n", "numbers"),
    "CSV with an index": _csv(",x,y\n0,1.5,2\n", "numbers"),
    "CSV with every type but bytes": _csv(
        frame().drop(columns="raw").to_csv(index=False).replace("carrier,", "carrier,raw,").replace("UA,", "UA,AP8=,")
    ),
    "CSV with a missing number": _csv("x,y\n,2\nNaN,3\nNA,4\n", "numbers"),
    "CSV with a missing text": _csv("carrier,late\nUA,True\n,False\n", "unsigned"),
    "CSV with infinity": _csv("x,y\ninf,2\n", "numbers"),
    "CSV with a text for a number": _csv("x,y\nsoon,2\n", "numbers"),
    "CSV with a missing column": _csv("x\n1\n", "numbers"),
    "CSV with an extra column": _csv("x,y,z\n1,2,a\n", "numbers"),
    "CSV with blanks": _csv("x, y\n1, 2\n", "numbers"),
    "CSV with quotes": _csv('x,y\n"1","2"\n', "numbers"),
    "CSV with a short row": _csv("x,y\n1\n", "numbers"),
    "CSV with a long row": _csv("x,y\n1,2,3\n", "numbers"),
    "CSV with empty lines": _csv("x,y\n\n1,2\n\n", "numbers"),
    "CSV of Windows": _csv("x,y\r\n1,2\r\n", "numbers"),
    "CSV with a byte order mark": _csv("\ufeffx,y\n1,2\n", "numbers"),
    "CSV without rows": _csv("x,y\n", "numbers"),
    "CSV without anything": _csv("", "numbers"),
    "CSV that is not UTF-8": Sent("numbers", b"x,y\n\xff,2\n", CSV),
    "CSV with the charset": _csv("x,y\n1,2\n", "numbers", "text/csv; charset=utf-8"),
    "CSV for a list model": _csv("text\na\n", "words"),
    "Parquet": _parquet(frame().assign(raw=[b"\x00\xff", b""])),
    "Parquet without a signature": _parquet(frame().assign(raw=[b"\x00\xff", b""]).set_index("number"), "unsigned"),
    "Parquet that is none": Sent("numbers", b"PAR1 not", PARQUET),
    # one array
    "an array": _json("tensor", {"inputs": [[0.1, 2], [3, 4]]}),
    "an array as instances": _json("tensor", {"instances": [[0.1, 2]]}),
    "an array as split": _json("tensor", {"dataframe_split": {"data": [[0.1, 2]]}}),
    "an array with named columns": _json("tensor", {"dataframe_split": {"columns": ["a", "b"], "data": [[0.1, 2]]}}),
    "an array as records": _json("tensor", {"dataframe_records": [{"a": 0.1, "b": 2}]}),
    "an array of another width": _json("tensor", {"inputs": [[1, 2, 3]]}),
    "an array of another depth": _json("tensor", {"inputs": [1, 2]}),
    "an array of unequal rows": _json("tensor", {"inputs": [[1, 2], [3]]}),
    "an array of texts": _json("tensor", {"inputs": [["a", "b"]]}),
    "an array of numbers in texts": _json("tensor", {"inputs": [["1", "2"]]}),
    "an array with null": _json("tensor", {"inputs": [[1, None]]}),
    "an array with NaN": _json("tensor", {"inputs": [[1, float("nan")]]}),
    "an array with infinity": _json("tensor", {"inputs": [[1, float("inf")]]}),
    "an array with a name": _json("tensor", {"inputs": {"a": [[1, 2]]}}),
    "an array without rows": _json("tensor", {"inputs": []}),
    "an array as CSV": _csv("a,b\n0.5,2\n", "tensor"),
    # named arrays
    "arrays": _json("tensors", {"inputs": {"a": [[1, 2], [3, 4]], "b": [1, 2]}}),
    "arrays as instances": _json("tensors", {"instances": [{"a": [1, 2], "b": 1}, {"a": [3, 4], "b": 2}]}),
    "arrays as records": _json("tensors", {"dataframe_records": [{"a": [1, 2], "b": 1}]}),
    "arrays as split": _json("tensors", {"dataframe_split": {"columns": ["a", "b"], "data": [[[1, 2], 1]]}}),
    "arrays, one missing": _json("tensors", {"inputs": {"a": [[1, 2]]}}),
    "arrays and another": _json("tensors", {"inputs": {"a": [[1, 2]], "b": [1], "c": [1]}}),
    "arrays of a fraction": _json("tensors", {"inputs": {"a": [[1, 2]], "b": [1.5]}}),
    "arrays of unequal length": _json("tensors", {"inputs": {"a": [[1, 2]], "b": [1, 2]}}),
    "arrays of another shape": _json("tensors", {"inputs": {"a": [1, 2], "b": [1, 2]}}),
    "arrays as a list": _json("tensors", {"inputs": [[1, 2]]}),
    # no signature
    "anything as split": _json("unsigned", {"dataframe_split": _split([ROW])}),
    "anything as records": _json("unsigned", {"dataframe_records": [FULL, ROW]}),
    "anything as inputs": _json("unsigned", {"inputs": [[1, 2], [3, 4]]}),
    "anything as named inputs": _json("unsigned", {"inputs": {"x": [1, 2], "y": ["a", "b"]}}),
    "anything as instances": _json("unsigned", {"instances": [{"x": 1}, {"x": 2}]}),
    "anything as a list of texts": _json("unsigned", {"inputs": ["a", "b"]}),
    "an integer beyond 64 bits, without a type": _json("unsigned", {"inputs": [2**64]}),
    "anything with nulls": _json("unsigned", {"dataframe_records": [{"x": None, "y": 1}, {"x": 1.5, "y": None}]}),
    # lists and objects in columns
    "lists and objects": _json(
        "nested",
        {
            "dataframe_records": [
                {"carrier": "UA", "path": [1.5, 2], "next": {"carrier": "AA", "stops": [1]}, "tags": ["a"]},
                {"carrier": "B6", "path": [], "next": {"carrier": "DL"}, "tags": []},
            ]
        },
    ),
    "lists and objects as split": _json(
        "nested",
        {"dataframe_split": {"columns": ["carrier", "path", "next"], "data": [["UA", [1.5], {"carrier": "AA"}]]}},
    ),
    "lists and objects as inputs": _json(
        "nested", {"inputs": [{"carrier": "UA", "path": [1.5], "next": {"carrier": "AA"}}]}
    ),
    "lists and objects as instances": _json(
        "nested", {"instances": [{"carrier": "UA", "path": [1.5], "next": {"carrier": "AA"}}]}
    ),
    "a list of texts for numbers": _json(
        "nested", {"dataframe_records": [{"carrier": "UA", "path": ["a"], "next": {"carrier": "AA"}}]}
    ),
    "an object without its key": _json(
        "nested", {"dataframe_records": [{"carrier": "UA", "path": [1.5], "next": {"stops": [1]}}]}
    ),
    "an object with another key": _json(
        "nested", {"dataframe_records": [{"carrier": "UA", "path": [1.5], "next": {"carrier": "AA", "x": 1}}]}
    ),
    "null for a list": _json(
        "nested", {"dataframe_records": [{"carrier": "UA", "path": None, "next": {"carrier": "AA"}}]}
    ),
    # one column without a name, and type hints
    "texts": _json("texts", {"inputs": ["a", "b"]}),
    "one text": _json("texts", {"inputs": "a"}),
    "texts as instances": _json("texts", {"instances": ["a", "b"]}),
    "texts as split": _json("texts", {"dataframe_split": {"columns": ["text"], "data": [["a"]]}}),
    "texts as records": _json("texts", {"dataframe_records": [{"text": "a"}]}),
    "texts that are numbers": _json("texts", {"inputs": [1, 2]}),
    "hinted texts": _json("words", {"inputs": ["a", "b"]}),
    "hinted texts that are numbers": _json("words", {"inputs": [1]}),
    "hinted texts, only one": _json("words", {"inputs": "a"}),
    "hinted texts as instances": _json("words", {"instances": ["a"]}),
    "hinted texts as split": _json("words", {"dataframe_split": {"columns": ["text"], "data": [["a"]]}}),
    "hinted objects": _json("hints", {"inputs": [{"carrier": "UA", "delay": 1.5}, {"carrier": "B6", "delay": 2}]}),
    "hinted objects with numbers in texts": _json("hints", {"inputs": [{"carrier": "UA", "delay": "1.5", "seats": 3}]}),
    "hinted objects without a field": _json("hints", {"inputs": [{"carrier": "UA"}]}),
    "hinted objects with another field": _json("hints", {"inputs": [{"carrier": "UA", "delay": 1, "x": 1}]}),
    "hinted objects of nothing": _json("hints", {"inputs": []}),
}
