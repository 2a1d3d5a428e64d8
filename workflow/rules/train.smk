# Training. Its checkpoints live in results/{run}/state; results/{run}/train is replaced when the last epoch is over.


rule train:
    input:
        before("train"),
    output:
        receipt="results/{run}/receipts/train-{fingerprint}.json",
    params:
        arguments=arguments("train"),
        order=order("train"),
        log=log_of("train"),
    threads: CORES
    resources:
        gpu=gpus,
    conda:
        ENVIRONMENT
    message:
        "Training {wildcards.run}"
    script:
        "../scripts/train.py"
