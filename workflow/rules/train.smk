# Training. Its checkpoints live in results/{run}/state, which is no declared output: Snakemake deletes those before it runs a rule.


rule train:
    input:
        complete=complete,
        train=store("train"),
        val=store("val"),
        model=model_file,
        weights=weights_file,
    output:
        best="results/{run}/train/best_model/model.pdparams",
        last="results/{run}/train/last_model/model.pdparams",
        history=report(
            "results/{run}/train/history.csv",
            caption="../report/history.rst",
            category="{run}",
            labels={"stage": "training"},
        ),
        metrics=report(
            "results/{run}/train/metrics.json",
            caption="../report/metrics.rst",
            category="{run}",
            labels={"stage": "trained"},
        ),
        visualdl=directory("results/{run}/train/visualdl"),
        provenance="results/{run}/train/provenance.json",
    params:
        schedule=lambda wildcards: settings.training_settings(run(wildcards)),
    log:
        "logs/{run}/train.log",
    benchmark:
        "results/{run}/benchmarks/train.tsv"
    threads: CORES
    resources:
        gpu=gpus,
    conda:
        ENVIRONMENT
    message:
        "Training {wildcards.run}"
    script:
        "../scripts/train.py"
