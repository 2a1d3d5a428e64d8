# From a nuScenes root to the memory-mapped store of keyframes, cameras and boxes, one file a split.


rule annotate:
    input:
        before("annotate"),
    output:
        receipt="results/{dataset}/receipts/annotate-{fingerprint}.json",
    params:
        arguments=arguments("annotate"),
        order=order("annotate"),
        log=log_of("annotate"),
    conda:
        CPU_ENVIRONMENT
    message:
        "Annotations of {wildcards.dataset}"
    script:
        "../scripts/annotate.py"


rule classic:
    input:
        before("classic-{split}"),
    output:
        receipt="results/{dataset}/receipts/classic-{split}-{fingerprint}.json",
    params:
        arguments=arguments("classic-{split}"),
        order=order("classic-{split}"),
        log=log_of("classic-{split}"),
    conda:
        CPU_ENVIRONMENT
    message:
        "Annotations of {wildcards.dataset}, {wildcards.split} split, as stock Paddle3D reads them"
    script:
        "../scripts/classic.py"
