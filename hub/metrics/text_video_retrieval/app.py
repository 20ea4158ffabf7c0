"""The Space of the metric: paste a similarity matrix, read the metrics."""

import json
from pathlib import Path

import evaluate
import gradio as gr
from evaluate.utils import parse_readme

FOLDER = Path(__file__).parent
metric = evaluate.load(str(FOLDER / "text_video_retrieval.py"))


def compute(predictions, references):
    """The metrics of a matrix and the columns of the right answers, both as JSON."""
    try:
        return metric.compute(predictions=json.loads(predictions), references=json.loads(references))
    except (ValueError, TypeError) as error:
        raise gr.Error(str(error)) from error


demo = gr.Interface(
    compute,
    inputs=[
        gr.Textbox(label="predictions: a row for each caption, a column for each video"),
        gr.Textbox(label="references: the column of each caption's video"),
    ],
    outputs=gr.JSON(label="metrics"),
    examples=[["[[0.9, 0.1], [0.8, 0.3], [0.2, 0.7]]", "[0, 0, 1]"]],
    cache_examples=False,
    title="Text-video retrieval",
    description=metric.description,
    article=parse_readme(FOLDER / "README.md"),
)

if __name__ == "__main__":
    demo.launch()
