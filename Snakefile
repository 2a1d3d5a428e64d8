# The front door: config, includes, and the targets a user types. Rules are in workflow/rules, what they call in src/petrflow.

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/annotate.smk"
include: "workflow/rules/baseline.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/demo.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        "results/report/index.html",
        expand(rules.baseline.output.metrics, run=RUNS),
        expand(rules.train.output.best, run=RUNS),
        expand(rules.export.output.parity, run=RUNS),
        expand(rules.demo.output.video, run=RUNS),


rule annotate_all:
    input:
        expand("results/{dataset}/annotations/{split}.arrow", dataset=USED_DATASETS, split=SPLITS),


rule classic_all:
    input:
        expand(rules.classic.output.pkl, dataset=USED_DATASETS, split=SPLITS),


rule baseline_all:
    input:
        expand(rules.baseline.output.metrics, run=RUNS),


rule train_all:
    input:
        expand(rules.train.output.best, run=RUNS),


rule export_all:
    input:
        expand(rules.export.output.parity, run=RUNS),


rule demo_all:
    input:
        expand(rules.demo.output.video, run=RUNS),
