"""The application of ``tools/serve.py``: one detector behind HTTP."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from owlkit.detections import Detections
from owlkit.errors import ImageError, OwlkitError, QueryError, TokenError
from owlkit.images import decode_image
from owlkit.predictor import Predictor
from owlkit.queries import QuerySet
from owlkit.queries.syntax import parse_words
from serving.batching import Batcher
from serving.limits import Limits, read_form, skip_body

_log = logging.getLogger("owlkit.serve")
# What a client can put right. Other errors of owlkit may name files of the server.
_FAULTS_OF_CLIENTS = (ImageError, QueryError, TokenError)
_LONGEST_MESSAGE = 500


def make_app(
    predictor: Predictor, query_sets: Mapping[str, QuerySet], limits: Limits | None = None
) -> FastAPI:
    """Makes the application.

    ``POST /detect`` takes a form: the file ``image``, then ``words`` ("cat, remote control") or
    ``queries`` (a name of `query_sets`), and optionally ``threshold`` and ``nms`` in [0, 1]. The
    answer holds ``image_size`` [h, w] and ``detections`` by descending score, each with ``label``,
    ``score`` and ``box`` (xyxy in pixels of the upright image). Errors are ``{"error": {"type",
    "message"}}`` with status 400, 408, 413 or 503. ``GET /health`` tells what is there.

    Args:
        predictor: Answers all requests.
        query_sets: What can be asked for by name; their embeddings are made here.
        limits: What is taken from clients.

    Raises:
        QueryError: If this model cannot encode a query set.
    """
    limits = limits or Limits()
    for queries in query_sets.values():
        predictor.embed(queries)
    # The first pass of a session allocates its memory, and a damaged model fails here.
    predictor.encode(np.zeros((8, 8, 3), np.uint8))
    batcher = Batcher(predictor)
    app = FastAPI(openapi_url=None)
    app.add_exception_handler(AnyHTTPException, _answer_refusal)
    app.add_exception_handler(OwlkitError, _answer_fault)
    busy = 0

    @app.get("/health")
    async def health() -> dict[str, Any]:
        model = predictor.backend.identity
        return {"status": "ok", "model": model, "queries": sorted(query_sets), "busy": busy}

    @app.post("/detect")
    async def detect(request: Request) -> dict[str, Any]:
        nonlocal busy
        if busy >= limits.waiting:
            await skip_body(request, limits)
            raise HTTPException(503, "too many requests at a time", {"Retry-After": "1"})
        busy += 1
        try:
            data, fields = await read_form(request, limits)
            queries = _wanted(fields, query_sets, limits)
            options = {name: _number(fields, name) for name in ("threshold", "nms")}
            image = await asyncio.to_thread(decode_image, data, "image", max_pixels=limits.pixels)
            found = await asyncio.to_thread(
                predictor.detect,
                await batcher.encode(image),
                queries,
                threshold=options["threshold"],
                nms_iou=options["nms"],
                top_k=limits.boxes,
            )
            return _as_json(found)
        finally:
            busy -= 1

    return app


def _wanted(
    fields: Mapping[str, str], query_sets: Mapping[str, QuerySet], limits: Limits
) -> QuerySet:
    """What a request looks for; raises QueryError if that cannot be said."""
    words, name = fields.get("words"), fields.get("queries")
    if (words is None) == (name is None):
        raise QueryError("expected one of the fields words and queries")
    if name is not None:
        if name not in query_sets:
            known = ", ".join(sorted(query_sets)) or "none"
            raise QueryError(f"queries: expected a name of a query set ({known}), found {name!r}")
        return query_sets[name]
    found = parse_words(words or "")
    if len(found) > limits.classes:
        raise QueryError(f"words: expected at most {limits.classes} names, found {len(found)}")
    if any(one.parent is not None for one in found.classes):
        # Each box would cost an image pass.
        raise QueryError(
            "words: expected names without parts; the server's query sets may have them"
        )
    return found


def _number(fields: Mapping[str, str], name: str) -> float | None:
    text = fields.get(name)
    try:
        value = None if text is None else float(text)
    except ValueError:
        value = np.nan
    if value is not None and not 0 <= value <= 1:
        raise QueryError(f"{name}: expected a number in [0, 1], found {text!r}")
    return value


def _as_json(found: Detections) -> dict[str, Any]:
    rows = zip(found.names, found.scores.tolist(), found.boxes.tolist(), strict=True)
    return {
        "image_size": found.image_size,
        "detections": [{"label": name, "score": score, "box": box} for name, score, box in rows],
    }


async def _answer_refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AnyHTTPException)
    return _error(error.status_code, "RequestError", str(error.detail), error.headers)


async def _answer_fault(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, _FAULTS_OF_CLIENTS):
        return _error(400, type(error).__name__, str(error))
    _log.error("a request failed", exc_info=error)
    return _error(503, type(error).__name__, "the model cannot answer; see the server's log")


def _error(
    status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    content = {"error": {"type": kind, "message": message[:_LONGEST_MESSAGE]}}
    return JSONResponse(content, status, headers)
