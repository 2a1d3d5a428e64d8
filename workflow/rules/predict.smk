# The trained model on a data set, labelled or not: detections in a columnar file and as a submission, counts, pictures, a film.


rule predict:
    input:
        before("predict-{dataset}"),
    output:
        receipt="results/{run}/receipts/predict-{dataset}-{fingerprint}.json",
    params:
        arguments=arguments("predict-{dataset}"),
        order=order("predict-{dataset}"),
        log=log_of("predict-{dataset}"),
    threads: CORES
    resources:
        gpu=gpus,
    conda:
        ENVIRONMENT
    message:
        "Predicting {wildcards.dataset} with {wildcards.run}"
    script:
        "../scripts/predict.py"


rule prelabel:
    input:
        before("prelabel-{dataset}"),
    output:
        receipt="results/{run}/receipts/prelabel-{dataset}-{fingerprint}.json",
    params:
        arguments=arguments("prelabel-{dataset}"),
        order=order("prelabel-{dataset}"),
        log=log_of("prelabel-{dataset}"),
    conda:
        CPU_ENVIRONMENT
    message:
        "Writing what {wildcards.run} finds in {wildcards.dataset} as labels for Xtreme1"
    script:
        "../scripts/prelabel.py"
