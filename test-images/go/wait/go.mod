module wait

go 1.24
