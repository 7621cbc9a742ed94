module dogwatch.bench/httpprobes

go 1.19
