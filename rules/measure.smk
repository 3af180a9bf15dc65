"""One job per method, layer and round, one per round of the pairs, some per method, one per peer: a process each."""


rule measure:
    input:
        MEASURING,
        study=f"{LOCAL}/studies/measure.json",
    output:
        f"{LOCAL}/raw/{{method}}/layer_{{layer}}/round_{{round}}.json",
    log:
        "logs/measure/{method}_layer_{layer}_round_{round}.log",
    benchmark:
        f"{LOCAL}/benchmarks/raw/{{method}}/layer_{{layer}}/round_{{round}}.tsv"
    wildcard_constraints:
        method="|".join(STUDY.methods),
        layer=r"\d+",
        round=r"\d+",
    priority: place_in_order
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=TIMED_MB,
        strict=STRICT,
    shell:
        "python3 -m evaluation.methods.benchmark_{wildcards.method} --layer {wildcards.layer}"
        " --round {wildcards.round} --study {input.study} --out {output}"
        " --strict {resources.strict} > {log} 2>&1"


# Last of what is repeated: a round of it measures all forms, layers and workloads against each other by itself.
rule pairs_measure:
    input:
        MEASURING,
        study=f"{LOCAL}/studies/pairs.json",
    output:
        f"{LOCAL}/raw/pairs/round_{{round}}.json",
    log:
        "logs/measure/pairs_round_{round}.log",
    benchmark:
        f"{LOCAL}/benchmarks/raw/pairs/round_{{round}}.tsv"
    wildcard_constraints:
        round=r"\d+",
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=TIMED_MB,
        strict=STRICT,
    shell:
        "python3 -m evaluation.experiments.pairs --round {wildcards.round} --study {input.study} --out {output}"
        " --strict {resources.strict} > {log} 2>&1"


rule side_measure:
    input:
        MEASURING,
        study=f"{LOCAL}/studies/{{kind}}.json",
    output:
        f"{LOCAL}/{{kind}}.json",
    log:
        "logs/measure/{kind}.log",
    benchmark:
        f"{LOCAL}/benchmarks/{{kind}}.tsv"
    wildcard_constraints:
        kind="overhead|load|sweep|thinking|neighbour|editing|durable|disk",
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=side_mb,
        strict=STRICT,
    shell:
        "python3 -m evaluation.experiments.{wildcards.kind} --study {input.study} --out {output}"
        " --strict {resources.strict} > {log} 2>&1"


rule method_measure:
    input:
        MEASURING,
        lambda wildcards: EXAMPLES if wildcards.kind == "capabilities" else [],  # whose lines are counted
        study=f"{LOCAL}/studies/{{kind}}.json",
    output:
        f"{LOCAL}/{{kind}}/{{method}}.json",
    log:
        "logs/measure/{kind}_{method}.log",
    benchmark:
        f"{LOCAL}/benchmarks/{{kind}}/{{method}}.tsv"
    wildcard_constraints:
        kind="capacity|capabilities",
        method="|".join(STUDY.methods),
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=side_mb,
        strict=STRICT,
    shell:
        "python3 -m evaluation.experiments.{wildcards.kind} --method {wildcards.method} --study {input.study}"
        " --out {output} --strict {resources.strict} > {log} 2>&1"


rule peer_measure:
    input:
        MEASURING,
        "envs/peers.txt",  # what to install if a peer is to be run
        study=f"{LOCAL}/studies/{{peer}}.json",
    output:
        f"{LOCAL}/peers/{{peer}}.json",
    log:
        "logs/measure/peer_{peer}.log",
    benchmark:
        f"{LOCAL}/benchmarks/peers/{{peer}}.tsv"
    wildcard_constraints:
        peer="|".join(peers()),
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=PEER_MB,  # a checkpoint is of the whole process
        strict=STRICT,
    shell:
        "python3 -m evaluation.peers --peer {wildcards.peer} --study {input.study} --out {output}"
        " --strict {resources.strict} > {log} 2>&1"


rule durable:
    """What survives a kill, and sessions beyond host memory: with configs/durable.yaml a run of its own, to be published."""
    input:
        f"{LOCAL}/machine.json",
        f"{LOCAL}/study.json",
        f"{LOCAL}/durable.json",
        f"{LOCAL}/disk.json",
        [file for file in paper_outputs(RUN) if Path(file).stem == "durable"],
    localrule: True
