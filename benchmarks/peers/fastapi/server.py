"""FastAPI behind uvicorn, one worker process a core; what computes runs in the thread pool, off the event loop."""

from typing import Any

from classifier import Classifier
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

app = FastAPI()
classifier = Classifier()


@app.post("/classify")
async def classify(request: Request) -> list[dict[str, Any]]:
    return await run_in_threadpool(classifier.classify, await request.body())
