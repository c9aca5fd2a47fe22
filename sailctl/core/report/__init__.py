"""Tables, plots and one self-contained HTML page made of result files; trains and generates nothing."""
