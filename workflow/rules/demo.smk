# The exported model on a validation scene: predicted and true boxes on every camera and from above.


rule demo:
    input:
        before("demo"),
    output:
        receipt="results/{run}/receipts/demo-{fingerprint}.json",
    params:
        arguments=arguments("demo"),
        order=order("demo"),
        log=log_of("demo"),
    threads: CORES
    resources:
        gpu=gpus,
    conda:
        ENVIRONMENT
    message:
        "Demo of {wildcards.run}"
    script:
        "../scripts/demo.py"
