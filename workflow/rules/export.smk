# The best model as a static one that paddle.inference loads, compared with the eager one.


rule export:
    input:
        before("export"),
    output:
        receipt="results/{run}/receipts/export-{fingerprint}.json",
    params:
        arguments=arguments("export"),
        order=order("export"),
        log=log_of("export"),
    threads: CORES
    resources:
        gpu=gpus,
    conda:
        ENVIRONMENT
    message:
        "Exporting {wildcards.run}"
    script:
        "../scripts/export.py"
