"""Operations of every engine, by family: each checks shapes and runs a kernel or its twin."""
