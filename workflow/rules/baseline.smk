# The run's weights, before training, on the validation split, scored.


rule baseline:
    input:
        complete=complete,
        store=store("val"),
        model=model_file,
        weights=weights_file,
    output:
        metrics=report(
            "results/{run}/baseline/metrics.json",
            caption="../report/metrics.rst",
            category="{run}",
            labels={"stage": "baseline"},
        ),
        detections="results/{run}/baseline/results_nusc.json",
        table=report(
            "results/{run}/baseline/table.txt",
            caption="../report/metrics.rst",
            category="{run}",
            labels={"stage": "baseline table"},
        ),
        provenance="results/{run}/baseline/provenance.json",
    params:
        expect=lambda wildcards: run(wildcards)["expect"],
        seed=lambda wildcards: None if run(wildcards)["weights"] else run(wildcards)["schedule"]["seed"],
    log:
        "logs/{run}/baseline.log",
    benchmark:
        "results/{run}/benchmarks/baseline.tsv"
    threads: CORES
    resources:
        gpu=gpus,
    conda:
        ENVIRONMENT
    message:
        "Baseline of {wildcards.run}"
    script:
        "../scripts/baseline.py"
