# The run's weights, before training, on the validation split, scored.


rule baseline:
    input:
        before("baseline"),
    output:
        receipt="results/{run}/receipts/baseline-{fingerprint}.json",
    params:
        arguments=arguments("baseline"),
        order=order("baseline"),
        log=log_of("baseline"),
    threads: CORES
    resources:
        gpu=gpus,
    conda:
        ENVIRONMENT
    message:
        "Baseline of {wildcards.run}"
    script:
        "../scripts/baseline.py"
