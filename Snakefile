# The front door: config, includes, and the targets a user types. Rules are in workflow/rules, what they call in src/petrflow.

from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/annotate.smk"
include: "workflow/rules/baseline.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/demo.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        receipts("report", "baseline", "train", "export", "demo", "predict"),
        shown_in_report,


rule annotate_all:
    input:
        receipts("annotate"),


rule classic_all:
    input:
        receipts("classic-train", "classic-val"),


rule baseline_all:
    input:
        receipts("baseline"),


rule train_all:
    input:
        receipts("train"),


rule export_all:
    input:
        receipts("export"),


rule demo_all:
    input:
        receipts("demo"),


rule predict_all:
    input:
        receipts("predict"),


rule prelabel_all:
    input:
        receipts("prelabel"),


rule doctor:
    input:
        receipts("doctor"),
