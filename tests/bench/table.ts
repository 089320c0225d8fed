/** A measured result, as the README's table shows it. */
export interface Row {
  what: string;
  result: string;
  target: string;
  met: boolean;
}

export function markdown(rows: Row[]): string {
  const lines = rows.map(({ what, result, target, met }) =>
    `| ${what} | ${result} | ${target}${met ? "" : ", **missed**"} |`
  );
  return ["| | measured | aimed at |", "| --- | --- | --- |", ...lines].join("\n");
}
