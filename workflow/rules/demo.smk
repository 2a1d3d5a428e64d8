# The exported model on a validation scene: predicted and true boxes on every camera and from above.


rule demo:
    input:
        complete=complete,
        store=store("val"),
        model=model_file,
        parity="results/{run}/export/parity.json",
        parameters="results/{run}/export/model.pdiparams",
    output:
        frames=directory("results/{run}/demo/frames"),
        video=report(
            "results/{run}/demo/demo.mp4", caption="../report/demo.rst", category="{run}", labels={"stage": "demo"}
        ),
        detections="results/{run}/demo/detections.json",
        provenance="results/{run}/demo/provenance.json",
    params:
        demo=lambda wildcards: run(wildcards)["demo"],
    log:
        "logs/{run}/demo.log",
    benchmark:
        "results/{run}/benchmarks/demo.tsv"
    threads: CORES
    resources:
        gpu=gpus,
    conda:
        ENVIRONMENT
    message:
        "Demo of {wildcards.run}"
    script:
        "../scripts/demo.py"
