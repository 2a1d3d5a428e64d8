# What people look at: one page over all runs; and the two checks that are targets of their own.


rule report:
    input:
        before("report"),
    output:
        receipt="results/report/receipts/report-{fingerprint}.json",
    params:
        arguments=lambda wildcards: hooks.report_arguments(PLAN),
        order=order("report"),
        log=log_of("report"),
    conda:
        CPU_ENVIRONMENT
    message:
        "The page over all runs"
    script:
        "../scripts/report.py"


rule preflight:
    params:
        models=MODELS,
    conda:
        ENVIRONMENT
    message:
        "What this machine is good for"
    script:
        "../scripts/preflight.py"


rule doctor_dataset:
    input:
        before("doctor"),
    output:
        receipt="results/{dataset}/receipts/doctor-{fingerprint}.json",
    params:
        arguments=arguments("doctor"),
        order=order("doctor"),
        log=log_of("doctor"),
    conda:
        CPU_ENVIRONMENT
    message:
        "Is {wildcards.dataset} fit for training?"
    script:
        "../scripts/doctor.py"
