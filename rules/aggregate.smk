"""The tables of each run by itself, and of all of them together."""


rule aggregate:
    input:
        relative(sources("evaluation.analysis.aggregate")),
        lambda wildcards: relative(PLANS[wildcards.run].records),
    output:
        [f"results/tables/{{run}}/{table}.csv" for table in TABLES],
    log:
        "logs/aggregate_{run}.log",
    wildcard_constraints:
        run="|".join(PLANS),
    localrule: True
    conda:
        ENVIRONMENT
    shell:
        "python3 -m evaluation.analysis.aggregate --run {wildcards.run} > {log} 2>&1"


rule join:
    input:
        relative(sources("evaluation.analysis.aggregate")),
        [relative(PLANS[run].tables) for run in sorted(PLANS)],
    output:
        **{table: f"results/{table}.csv" for table in TABLES if table != "summary"},
        summary=report(
            "results/summary.csv", caption="captions/summary.rst", category="Tables"
        ),
    log:
        "logs/join.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        runs=sorted(PLANS),
    shell:
        "python3 -m evaluation.analysis.aggregate --join {params.runs} > {log} 2>&1"
