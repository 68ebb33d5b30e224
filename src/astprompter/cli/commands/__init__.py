"""Commands of the command line, a module each: parse, call one function, print."""
