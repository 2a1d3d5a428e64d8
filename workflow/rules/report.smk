# What people look at: one page over all runs; and the two checks that are targets of their own.


rule report:
    input:
        expand(rules.baseline.output.metrics, run=RUNS),
        expand(rules.train.output.history, run=RUNS),
        expand(rules.train.output.metrics, run=RUNS),
        expand(rules.export.output.parity, run=RUNS),
        expand(rules.demo.output.detections, run=RUNS),
    output:
        report("results/report/index.html", caption="../report/report.rst", category="summary"),
    params:
        runs={name: entry | {"schedule": settings.training_settings(entry)} for name, entry in CONFIG["runs"].items()},
    log:
        "logs/report.log",
    benchmark:
        "results/report/benchmarks/report.tsv"
    conda:
        CPU_ENVIRONMENT
    message:
        "The page over all runs"
    script:
        "../scripts/report.py"


rule preflight:
    params:
        config=CONFIG,
        models={run: str(path) for run, path in MODELS.items()},
    conda:
        ENVIRONMENT
    message:
        "What this machine is good for"
    script:
        "../scripts/preflight.py"


rule doctor:
    input:
        expand("results/{dataset}/doctor/doctor.json", dataset=sorted(CONFIG["datasets"])),


rule doctor_dataset:
    input:
        complete="data/{dataset}/.complete.json",
        train="results/{dataset}/annotations/train.arrow",
        val="results/{dataset}/annotations/val.arrow",
    output:
        report="results/{dataset}/doctor/doctor.json",
    log:
        "logs/{dataset}/doctor.log",
    benchmark:
        "results/{dataset}/benchmarks/doctor.tsv"
    conda:
        CPU_ENVIRONMENT
    message:
        "Is {wildcards.dataset} fit for training?"
    script:
        "../scripts/doctor.py"
