"""Many runs: the rows and seeds of a grid file as jobs side by side, ending with a table.

file, rows      a grid file, and the runs that follow from it
driver          starts jobs, watches them, keeps their order, starts lost ones again
engine          what runs them: local (processes of this machine, on Linux copies of a fork_server) or
                ray_cluster (many machines)
status_lines    what a person reads meanwhile
report          the table at the end
command         python -m bslora_kit.grid
"""
