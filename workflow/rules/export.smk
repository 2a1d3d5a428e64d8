# The best model as a static one that paddle.inference loads, compared with the eager one.


rule export:
    input:
        complete=complete,
        store=store("val"),
        model=model_file,
        best="results/{run}/train/best_model/model.pdparams",
    output:
        parity=report(
            "results/{run}/export/parity.json",
            caption="../report/parity.rst",
            category="{run}",
            labels={"stage": "export"},
        ),
        parameters="results/{run}/export/model.pdiparams",
        provenance="results/{run}/export/provenance.json",
    log:
        "logs/{run}/export.log",
    benchmark:
        "results/{run}/benchmarks/export.tsv"
    threads: CORES
    resources:
        gpu=gpus,
    conda:
        ENVIRONMENT
    message:
        "Exporting {wildcards.run}"
    script:
        "../scripts/export.py"
