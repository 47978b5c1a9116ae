"""The report as one HTML page, which holds its style, its figures and its script, and needs nothing else."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flexcim_sim.demo.figures import layers_figure, models_figure
from flexcim_sim.demo.report import Report
from flexcim_sim.demo.tables import layer_table, model_table, phase_table, rtl_tables, text_table
from flexcim_sim.demo.waveform import waveform_figure

__all__ = ["page"]


def page(report: Report) -> str:
    """The page. Whatever comes from models and texts is escaped."""
    environment = Environment(
        loader=PackageLoader("flexcim_sim.demo", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    vector = report.vector
    return environment.get_template("page.html").render(
        report=report,
        models=model_table(report),
        models_figure=Markup(models_figure(report)),
        texts=text_table(report),
        rtl=rtl_tables(report),
        waveform=Markup(waveform_figure(vector)) if vector.phases else None,
        phases=phase_table(vector),
        layers=[
            (model.name, layer_table(report, model), Markup(layers_figure(report, model, f"layers-{index}")))
            for index, model in enumerate(report.models)
        ],
    )
